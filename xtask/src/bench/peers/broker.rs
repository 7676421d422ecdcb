//! What the clients talk to: for each case one broker, the same for all. `answer-at-once`, which has every topic; the
//! embedded broker, where latency is measured; or a real node, where a producer gets a fresh topic for each run and all consumers read the same one.

use std::cell::Cell;
use std::process::Command;

use super::Against;
use super::cases::Case;
use super::cases::Kind;
use super::clients;
use crate::bench::answering::AnswerAtOnce;
use crate::bench::answering::Tally;
use crate::embedded::EmbeddedBroker;
use crate::embedded::Profile;
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
    Embedded { broker: EmbeddedBroker, runs: u64 },
    AnswerAtOnce { broker: AnswerAtOnce, runs: u64 },
    Kafka { bootstrap: String, runs: &'a Cell<u64>, to_read: Option<String> },
}

/// A topic for one run.
pub(super) struct Topic {
    name: String,
    /// Where it is to be deleted after the run.
    bootstrap: Option<String>,
}

impl Broker {
    pub(super) fn prepare(against: Against) -> Outcome<Self> {
        match against {
            Against::AnswerAtOnce => {
                AnswerAtOnce::prepare()?;
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
            _ if case.kind == Kind::Latency => {
                Ok(Serving::Embedded { broker: EmbeddedBroker::start(Profile::Release, &[])?, runs: 0 })
            }
            Self::AnswerAtOnce => Serving::answer_at_once(case, records),
            Self::Kafka { lease, runs } => {
                let bootstrap = lease.bootstrap();
                let mut serving = Serving::Kafka { bootstrap: bootstrap.clone(), runs, to_read: None };
                if case.consumes() {
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
        let (records, size) = (records.to_string(), case.size.to_string());
        let arguments = ["--records", &records, "--size", &size, "--compression", case.codec, "--batch", BATCH_BYTES];
        Ok(Self::AnswerAtOnce { broker: AnswerAtOnce::start(&arguments)?, runs: 0 })
    }

    pub(super) fn bootstrap(&self) -> &str {
        match self {
            Self::AnswerAtOnce { broker, .. } => broker.bootstrap(),
            Self::Embedded { broker, .. } => broker.bootstrap(),
            Self::Kafka { bootstrap, .. } => bootstrap,
        }
    }

    /// The topic for one run.
    pub(super) fn topic(&mut self, case: &Case) -> Outcome<Topic> {
        let (name, bootstrap) = match self {
            Self::AnswerAtOnce { runs, .. } => {
                *runs += 1;
                (format!("peers-{runs}"), None)
            }
            Self::Embedded { broker, runs } => {
                *runs += 1;
                let name = format!("peers-{runs}");
                topics(&["create", &name, "--partitions", "1", "-b", broker.bootstrap()])?;
                (name, None)
            }
            Self::Kafka { to_read: Some(topic), .. } => (topic.clone(), None),
            Self::Kafka { .. } => (self.create(case)?, Some(self.bootstrap().to_owned())),
        };
        Ok(Topic { name, bootstrap })
    }

    /// What a producer sent to its topic, where the broker counts that.
    pub(super) fn tally(&mut self, case: &Case, topic: &Topic) -> Outcome<Option<Tally>> {
        match self {
            Self::AnswerAtOnce { broker, .. } if case.kind == Kind::Produce => Ok(Some(broker.tally(&topic.name)?)),
            _ => Ok(None),
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

impl Topic {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Deletes it, where it was made for one run: the disk would fill.
    pub(super) fn drop(self) -> Outcome {
        match self.bootstrap {
            Some(bootstrap) => topics(&["delete", &self.name, "-b", &bootstrap]),
            None => Ok(()),
        }
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        match self {
            Self::Kafka { bootstrap, to_read: Some(topic), .. } => {
                if let Err(error) = topics(&["delete", topic, "-b", bootstrap]) {
                    eprintln!("peers: {topic} was not deleted: {error}");
                }
            }
            Self::Kafka { .. } | Self::AnswerAtOnce { .. } | Self::Embedded { .. } => {}
        }
    }
}
