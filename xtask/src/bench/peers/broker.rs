//! What the clients talk to: for each case one broker, the same for all. Either `answer-at-once`, which has every topic, or
//! a real node, where a producer gets a fresh topic for each run and all consumers read the same one.

use std::cell::Cell;
use std::io::BufRead as _;
use std::io::BufReader;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use super::Against;
use super::cases::Case;
use super::clients;
use crate::host;
use crate::host::Outcome;
use crate::kafka::Lease;
use crate::kafka::Via;

/// Bytes of the batches that consumers find, before compression: what a producer without much to do makes of them.
const BATCH_BYTES: &str = "16384";

/// A broker, before a case is known.
pub(super) enum Broker {
    AnswerAtOnce,
    Kafka { lease: Lease, runs: Cell<u64> },
}

/// A broker that serves a case.
pub(super) enum Serving<'a> {
    AnswerAtOnce { process: Child, bootstrap: String },
    Kafka { bootstrap: String, runs: &'a Cell<u64>, to_read: Option<String> },
}

/// A topic for one run.
pub(super) struct Topic<'a> {
    name: String,
    /// Where it is to be deleted after the run.
    bootstrap: Option<&'a str>,
}

impl Broker {
    pub(super) fn prepare(against: Against) -> Outcome<Self> {
        match against {
            Against::AnswerAtOnce => {
                host::run(host::cargo().args(["build", "--quiet", "--release", "--package", "milena-benches"]))?;
                Ok(Self::AnswerAtOnce)
            }
            Against::Kafka => {
                host::run(host::cargo().args(["build", "--quiet", "--release", "--package", "milena-cli"]))?;
                Ok(Self::Kafka { lease: Lease::take(1, Via::Auto)?, runs: Cell::new(0) })
            }
        }
    }

    pub(super) fn serve(&self, case: &Case, records: u64) -> Outcome<Serving<'_>> {
        match self {
            Self::AnswerAtOnce => Serving::answer_at_once(case, records),
            Self::Kafka { lease, runs } => {
                let bootstrap = lease.bootstrap();
                let mut serving = Serving::Kafka { bootstrap: bootstrap.clone(), runs, to_read: None };
                if case.consume {
                    let topic = serving.create(case)?;
                    fill(case, &bootstrap, &topic, records)?;
                    if let Serving::Kafka { to_read, .. } = &mut serving {
                        *to_read = Some(topic);
                    }
                }
                Ok(serving)
            }
        }
    }
}

/// Puts exactly so many records into partition 0.
fn fill(case: &Case, bootstrap: &str, topic: &str, records: u64) -> Outcome {
    let mut milena = clients::program_of("milena");
    milena.args(["produce", "--bootstrap", bootstrap, "--topic", topic, "--batch-bytes", BATCH_BYTES]);
    milena.args(["--records", &records.to_string(), "--warm-up", "0"]);
    milena.args(["--size", &case.size.to_string(), "--compression", case.codec]);
    clients::within_limit(&mut milena).map(|_| ())
}

impl Serving<'_> {
    fn answer_at_once(case: &Case, records: u64) -> Outcome<Self> {
        let mut command = Command::new(host::target().join("release/answer-at-once"));
        command.args(["--records", &records.to_string(), "--size", &case.size.to_string()]);
        command.args(["--compression", case.codec, "--batch", BATCH_BYTES]);
        let mut process = command.stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.take().ok_or("the broker's stdout is piped")?;
        let mut serving = Self::AnswerAtOnce { process, bootstrap: String::new() };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ").ok_or("the broker didn't say where it listens")?;
        if let Self::AnswerAtOnce { bootstrap, .. } = &mut serving {
            address.clone_into(bootstrap);
        }
        Ok(serving)
    }

    pub(super) fn bootstrap(&self) -> &str {
        match self {
            Self::AnswerAtOnce { bootstrap, .. } | Self::Kafka { bootstrap, .. } => bootstrap,
        }
    }

    /// The topic for one run.
    pub(super) fn topic(&self, case: &Case) -> Outcome<Topic<'_>> {
        match self {
            Self::AnswerAtOnce { .. } => Ok(Topic { name: "peers".to_owned(), bootstrap: None }),
            Self::Kafka { to_read: Some(topic), .. } => Ok(Topic { name: topic.clone(), bootstrap: None }),
            Self::Kafka { bootstrap, .. } => Ok(Topic { name: self.create(case)?, bootstrap: Some(bootstrap) }),
        }
    }

    /// Makes a topic that nobody used before.
    fn create(&self, case: &Case) -> Outcome<String> {
        let Self::Kafka { bootstrap, runs, .. } = self else { return Err("every topic exists".into()) };
        runs.set(runs.get() + 1);
        let name = format!("peers-{}", runs.get());
        let partitions = case.partitions.to_string();
        topics(&["create", &name, "--partitions", &partitions, "-b", bootstrap])?;
        Ok(name)
    }
}

fn topics(arguments: &[&str]) -> Outcome {
    let mut milena = Command::new(host::target().join("release/milena"));
    host::capture(milena.arg("topics").args(arguments)).map(|_| ())
}

impl Topic<'_> {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Deletes it, where it was made for one run: the disk would fill.
    pub(super) fn drop(self) -> Outcome {
        match self.bootstrap {
            Some(bootstrap) => topics(&["delete", &self.name, "-b", bootstrap]),
            None => Ok(()),
        }
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        match self {
            Self::AnswerAtOnce { process, .. } => {
                // It keeps nothing: there is nothing to save.
                let ended = process.kill().and_then(|()| process.wait());
                if let Err(error) = ended {
                    eprintln!("peers: the broker may still run: {error}");
                }
            }
            Self::Kafka { bootstrap, to_read: Some(topic), .. } => {
                if let Err(error) = topics(&["delete", topic, "-b", bootstrap]) {
                    eprintln!("peers: {topic} was not deleted: {error}");
                }
            }
            Self::Kafka { .. } => {}
        }
    }
}
