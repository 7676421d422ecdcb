//! `cargo xtask foreign`: clients written by others against a broker: ours, unless another is named. The clients and
//! what they have to do are the script beside milena-tests; here it gets a broker, and the class path of the Java tools.

use std::process::Command;

use clap::Args;

use crate::embedded::EmbeddedBroker;
use crate::embedded::Profile;
use crate::host;
use crate::host::Outcome;
use crate::kafka;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Brokers to run on; without them our embedded broker is started
    #[arg(short, long, value_name = "HOST:PORT,…")]
    bootstrap: Option<String>,
    /// Only these clients (kcat, confluent-kafka, aiokafka, java, franz-go)
    clients: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let broker;
    let bootstrap = match &arguments.bootstrap {
        Some(bootstrap) => bootstrap,
        None => {
            broker = EmbeddedBroker::start(Profile::Debug, &[])?;
            broker.bootstrap()
        }
    };
    let mut script = Command::new("python3");
    script.arg(host::root().join("crates/milena-tests/foreign/run.py"));
    script.args(["--bootstrap", bootstrap, "--work"]).arg(host::target().join("foreign")).args(&arguments.clients);
    match kafka::tools_class_path() {
        Ok(class_path) => {
            script.args(["--java-class-path", &class_path]);
        }
        Err(missing) => eprintln!("foreign: NOT TESTED: the Java tools: {missing}"),
    }
    host::run(&mut script)
}
