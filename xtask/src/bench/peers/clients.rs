//! The clients: how each is built, and how one run of it is asked for and read. Every client has two programs, of which
//! one counts allocations: counting costs CPU, and those most that allocate most.

use std::fs::File;
use std::io::Read as _;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde::Deserialize;

use super::cases::Case;
use super::cases::Kind;
use crate::bench::answering::Tally;
use crate::host;
use crate::host::Outcome;

/// How long one run may take, on a machine that does other things too.
const TIME_LIMIT: Duration = Duration::from_secs(180);

/// One client, as a package of the workspace `benches/peers`.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its programs are called this, and this with `-counted`.
    pub(super) name: &'static str,
    /// As tables call it.
    shown: &'static str,
    /// How it hands records over, where it offers the choice.
    variants: &'static [&'static str],
}

/// milena first: all others are compared with its first variant.
pub(super) const CLIENTS: [Client; 6] = [
    Client { name: "milena", shown: "milena", variants: &["borrowed", "sliced", "owned"] },
    Client { name: "rdkafka", shown: "librdkafka 2.12.1", variants: &[] },
    Client { name: "confluent", shown: "confluent-kafka 1.0.0", variants: &[] },
    Client { name: "kacrab", shown: "kacrab 0.4.0", variants: &[] },
    Client { name: "krafka", shown: "krafka 0.28.1", variants: &[] },
    Client { name: "rskafka", shown: "rskafka 0.6.0", variants: &[] },
];

/// What must be known to read the figures.
pub(super) const NOTES: &str = "\
CPU is user and system time of the client's process alone. All producers but rskafka's, which cannot, are idempotent; all
have acks=all and await every acknowledgement. rskafka's batches are made by the caller. Of librdkafka's allocations only
those on the Rust side are seen. Latency is that of one record in 1,024 at full speed: mostly its wait behind others.
milena's sliced records are what the other Rust clients hand over; owned ones are copies. Settings: benches/peers/README.md";

/// One run's figures, as the client prints them.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Run {
    pub(super) payload_bytes: u64,
    pub(super) cpu_us_per_record: f64,
    pub(super) records_per_second: f64,
    pub(super) p50_us: Option<f64>,
    pub(super) p99_us: Option<f64>,
    pub(super) allocations_per_record: Option<f64>,
    pub(super) allocated_bytes_per_record: Option<f64>,
    pub(super) peak_resident_mib: f64,
}

/// A client in a case, with what came of it.
#[derive(Debug)]
pub(super) struct Entrant {
    client: &'static Client,
    variant: Option<&'static str>,
    pub(super) runs: Vec<Run>,
    /// The run in which allocations were counted.
    pub(super) counted: Option<Run>,
    pub(super) failure: Option<String>,
    /// What its last run sent, where the broker counts that.
    pub(super) sent: Option<Tally>,
}

impl Client {
    pub(super) fn is_ours(&self) -> bool {
        self.name == CLIENTS[0].name
    }

    /// Builds its programs, alone: in one build the features of one client's dependencies would be those of all.
    pub(super) fn build(&self) -> Outcome {
        let mut cargo = host::cargo();
        cargo.args(["build", "--quiet", "--release", "--locked", "--manifest-path", "benches/peers/Cargo.toml"]);
        cargo.arg("--target-dir").arg(host::root().join("benches/peers/target"));
        host::run(cargo.args(["--package", &format!("peer-{}", self.name)]))
    }

    /// In which ways it takes part in a case; already failed where it was not `built`.
    pub(super) fn entrants(&'static self, case: &Case, built: &Result<(), String>) -> Vec<Entrant> {
        let variants: Vec<_> = match self.variants {
            variants if case.consumes() && !variants.is_empty() => variants.iter().map(|name| Some(*name)).collect(),
            _ => vec![None],
        };
        let failure = built.as_ref().err().map(|_| "not built".to_owned());
        let entrant = |variant| Entrant {
            client: self,
            variant,
            runs: vec![],
            counted: None,
            failure: failure.clone(),
            sent: None,
        };
        variants.into_iter().map(entrant).collect()
    }
}

impl Entrant {
    pub(super) fn name(&self) -> String {
        match self.variant {
            Some(variant) => format!("{}, {variant}", self.client.shown),
            None => self.client.shown.to_owned(),
        }
    }

    pub(super) fn is_ours(&self) -> bool {
        self.client.is_ours()
    }

    /// Whether a budget is its own: slices are between borrowed and owned, and have none.
    pub(super) fn has_budget(&self) -> bool {
        self.is_ours() && self.variant != Some("sliced")
    }

    /// Whether it copies its records.
    pub(super) fn is_owned(&self) -> bool {
        self.variant == Some("owned")
    }

    /// Whether it has what a producer is asked for here: rskafka has no idempotence, and its batches are the caller's.
    pub(super) fn is_full(&self) -> bool {
        self.client.name != "rskafka"
    }

    /// It takes no further part.
    pub(super) fn fails(&mut self, failure: &str) {
        eprintln!("\npeers: FAILED: {}: {failure}", self.name());
        self.failure = Some(failure.lines().next_back().unwrap_or("without a word").trim().to_owned());
    }

    /// Keeps what a run measured; void where the client did not compress as it was asked to.
    pub(super) fn ran(&mut self, run: Run, case: &Case, sent: Option<Tally>) {
        self.runs.push(run);
        let objection = sent.as_ref().and_then(|sent| sent.objection(case.codec));
        self.sent = sent;
        if let Some(objection) = objection {
            self.fails(&objection);
        }
    }

    pub(super) fn run(&self, case: &Case, bootstrap: &str, topic: &str, records: u64) -> Outcome<Run> {
        self.ask(self.client.name, case, bootstrap, topic, records)
    }

    pub(super) fn count(&self, case: &Case, bootstrap: &str, topic: &str, records: u64) -> Outcome<Run> {
        self.ask(&format!("{}-counted", self.client.name), case, bootstrap, topic, records)
    }

    fn ask(&self, program: &str, case: &Case, bootstrap: &str, topic: &str, records: u64) -> Outcome<Run> {
        let mut command = program_of(program);
        let mode = match case.kind {
            Kind::Produce => "produce",
            Kind::Consume => "consume",
            Kind::Latency => "latency",
        };
        command.args([mode, "--bootstrap", bootstrap, "--topic", topic]);
        command.args(["--records", &records.to_string(), "--warm-up", &(records / 5).to_string()]);
        command.args(["--size", &case.size.to_string(), "--compression", case.codec]);
        command.args(["--tasks", &case.tasks.to_string(), "--partitions", &case.partitions.to_string()]);
        if let Some(variant) = self.variant {
            command.args(["--variant", variant]);
        }
        Ok(serde_json::from_str(&within_limit(&mut command)?)?)
    }
}

/// A program of the workspace `benches/peers`.
pub(super) fn program_of(name: &str) -> Command {
    Command::new(host::root().join("benches/peers/target/release").join(name))
}

/// Runs `command` and gives back its stdout, unless it takes too long.
pub(super) fn within_limit(command: &mut Command) -> Outcome<String> {
    let log = host::target().join("bench/peers.log");
    std::fs::create_dir_all(host::target().join("bench"))?;
    // To a file: a client that logs a lot must not wait for us to read.
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?).spawn()?;
    let deadline = Instant::now() + TIME_LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Err(format!("not done after {} s: {}", TIME_LIMIT.as_secs(), host::shown(command)).into());
        }
        thread::sleep(Duration::from_millis(20));
    };
    if !status.success() {
        let said = std::fs::read_to_string(&log)?;
        return Err(format!("{status}: {}\n{}", host::shown(command), host::last_lines(&said, 10)).into());
    }
    let mut text = String::new();
    child.stdout.take().ok_or("its stdout is piped")?.read_to_string(&mut text)?;
    Ok(text)
}
