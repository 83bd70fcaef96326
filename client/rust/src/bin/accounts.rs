//! The example as a program: it opens two accounts, moves money, and prints what a subscription
//! makes of it. It calls the server at `TREERING_SERVER`, or 127.0.0.1:7464.

use std::env;
use std::error::Error;
use std::fs;
use std::ops::ControlFlow;

use treering_example::example::{Accounts, follow_balances};
use treering_example::treering;
use treering_example::v1::event_store_service_client::EventStoreServiceClient;
use uuid::Uuid;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::var("TREERING_SERVER").unwrap_or_else(|_| "127.0.0.1:7464".to_owned());
    let connection = treering::connect(&address)?;

    let accounts = Accounts::new(connection.clone());
    let (anna, bert) = (&Uuid::now_v7().to_string(), &Uuid::now_v7().to_string());
    accounts.open(anna, "Anna").await?;
    accounts.open(bert, "Bert").await?;
    accounts.deposit(anna, 10_000).await?;
    accounts.transfer(anna, bert, 2_500).await?;
    for event in accounts.latest(10, &[anna, bert]).await? {
        let data = String::from_utf8_lossy(&event.data);
        println!("{} {} {} {} {data}", event.position, event.stream, event.version, event.r#type);
    }

    let store = EventStoreServiceClient::new(connection);
    let path = env::temp_dir().join(format!("balances-{anna}"));
    follow_balances(&store, &path, |balances| {
        let [anna, bert] = [anna, bert].map(|id| balances.cents[id]);
        println!("Anna has {anna} cents, Bert has {bert}");
        ControlFlow::Break(())
    })
    .await?;
    Ok(fs::remove_file(path)?)
}
