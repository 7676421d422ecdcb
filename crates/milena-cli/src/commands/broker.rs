//! `milena broker`: an embedded broker on TCP, for any Kafka client.

use std::io::Write as _;

use milena_broker::Broker;

use crate::args::BrokerArgs;
use crate::failure::{Failure, Trying as _};

pub(crate) async fn run(args: BrokerArgs) -> Result<(), Failure> {
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
    // Whoever waits for this line waits behind a pipe: it must not sit in a buffer.
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on {}", addresses.join(","))?;
    stdout.flush()?;
    end_signal().await.trying("cannot wait for a signal")?;
    broker.shutdown().await;
    Ok(())
}

/// Resolves at Ctrl-C or SIGTERM.
async fn end_signal() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
