//! `milena broker`: an embedded broker on TCP, for any Kafka client.

use milena_broker::Broker;

use crate::args::BrokerArgs;
use crate::failure::{Failure, Trying as _};
use crate::interrupt::interrupted;
use crate::stdout;

pub(crate) async fn run(args: BrokerArgs) -> Result<(), Failure> {
    let port = args.listen.port();
    if port > 0 && port.checked_add(args.nodes - 1).is_none() {
        let nodes = args.nodes;
        return Err(Failure::Usage(format!("{nodes} nodes take {nodes} ports, and from {port} on there are fewer")));
    }
    let mut builder = Broker::builder().nodes(args.nodes).auto_create(!args.no_auto_create);
    for (name, partitions) in args.topics {
        let partitions = i32::try_from(partitions)
            .map_err(|_| Failure::Usage(format!("topic {name}: {partitions} partitions are too many")))?;
        builder = builder.topic(name, partitions);
    }
    let broker = builder.try_build().map_err(|error| Failure::Usage(error.to_string()))?;
    let addresses =
        broker.listen(&args.listen.to_string()).await.trying(format_args!("cannot listen on {}", args.listen))?;
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    stdout::line(format_args!("listening on {}", addresses.join(",")))?;
    interrupted().await.trying("cannot wait for a signal")?;
    broker.shutdown().await;
    Ok(())
}
