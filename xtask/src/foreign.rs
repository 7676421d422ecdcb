//! `cargo xtask foreign`: clients written by others against a broker: ours, unless another is named. The clients and
//! what they have to do are the script beside milena-tests; here it gets a broker, and the class path of the Java tools.

use std::io::BufRead as _;
use std::io::BufReader;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use clap::Args;

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
            broker = EmbeddedBroker::start()?;
            &broker.bootstrap
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

/// `milena broker` on a free port; it ends with this.
struct EmbeddedBroker {
    process: Child,
    bootstrap: String,
}

impl EmbeddedBroker {
    fn start() -> Outcome<Self> {
        host::run(host::cargo().args(["build", "--quiet", "--package", "milena-cli"]))?;
        let mut process = Command::new(host::target().join("debug/milena"))
            .args(["broker", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = process.stdout.take().ok_or("the broker's stdout is piped")?;
        let mut broker = Self { process, bootstrap: String::new() };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let bootstrap = line.trim().strip_prefix("listening on ").ok_or("the broker didn't say where it listens")?;
        broker.bootstrap = bootstrap.to_owned();
        Ok(broker)
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        // It keeps everything in memory: there is nothing to save.
        let ended = self.process.kill().and_then(|()| self.process.wait());
        if let Err(error) = ended {
            eprintln!("foreign: the broker may still run: {error}");
        }
    }
}
