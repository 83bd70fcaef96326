/// Why the service does not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
pub enum Error {
    #[error("{id} exists already, at version {version}")]
    AccountExists { id: String, version: u64 },
    #[error("no account {0}")]
    NoAccount(String),
    #[error("not enough money")]
    InsufficientFunds,
    #[error("another account has the name {0}")]
    NameTaken(String),
    #[error("{field}: {description} (limit {limit})")]
    OverLimit { field: String, description: String, limit: u64 },
    #[error("what the event at position {position} says can't be read")]
    Unreadable { position: u64, source: serde_json::Error },
    #[error("the event at position {0} came twice")]
    Repeated(u64),
    #[error("append {0} was answered instead of {1}")]
    OutOfOrder(u64, u64),
    #[error("the file of balances can't be kept")]
    File(#[from] std::io::Error),
    /// Of the store, or on the way to it.
    #[error(transparent)]
    Store(#[from] tonic::Status),
}
