//! Runs a broker on TCP until Ctrl-C, for trying other clients on it by hand:
//! `cargo run -p milena-broker --example serve -- 127.0.0.1:9092 3 orders:6 payments:1`.

use milena_broker::Broker;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let nodes = arguments.next().map_or(Ok(1), |nodes| nodes.parse())?;
    let mut builder = Broker::builder().nodes(nodes);
    for topic in arguments {
        let (name, partitions) = topic.split_once(':').unwrap_or((&topic, "1"));
        builder = builder.topic(name, partitions.parse()?);
    }
    let broker = builder.try_build()?;
    let addresses: Vec<_> = broker.listen(&address).await?.iter().map(ToString::to_string).collect();
    println!("listening on {}", addresses.join(","));
    tokio::signal::ctrl_c().await?;
    broker.shutdown().await;
    Ok(())
}
