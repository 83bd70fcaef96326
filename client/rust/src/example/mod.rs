//! A small service that keeps accounts as events. Everything a service does with Treering is in this
//! folder once, in the way that we would write it: accounts.rs decides and appends, pipeline.rs
//! appends much at once, balances.rs follows. Copy what you need.

mod accounts;
mod balances;
mod error;
mod pipeline;

pub use accounts::Accounts;
pub use balances::{Balances, follow_balances};
pub use error::Error;
