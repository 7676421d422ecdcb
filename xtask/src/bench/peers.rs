//! `cargo xtask bench --peers`: the same load through milena and through clients written by others, on one broker, each in
//! a process of its own, in turn. What the load is, is in `benches/peers`; here it is run, and its figures are shown.

mod broker;
mod cases;
mod chart;
mod clients;
mod figures;

use std::fs;
use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

use self::broker::Broker;
use self::cases::CASES;
use self::cases::Case;
use self::clients::CLIENTS;
use self::clients::Client;
use self::clients::Entrant;
use self::figures::Table;
use crate::host;
use crate::host::Outcome;

#[derive(Args)]
// Flattened into arguments of the same name: a group for each would be called alike.
#[group(skip)]
pub(crate) struct Arguments {
    /// Measure milena beside clients written by others
    #[arg(long)]
    pub(crate) peers: bool,
    /// How often each client runs each case
    #[arg(long, default_value_t = 5, requires = "peers")]
    rounds: usize,
    /// What the clients talk to
    #[arg(long, value_enum, default_value_t = Against::AnswerAtOnce, requires = "peers")]
    against: Against,
    /// Only this case; may be given several times
    #[arg(long = "case", value_name = "CASE", requires = "peers", value_parser = known_case)]
    cases: Vec<&'static Case>,
    /// Only milena and this client; may be given several times
    #[arg(long = "client", value_name = "CLIENT", requires = "peers", value_parser = known_client)]
    clients: Vec<&'static Client>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Against {
    /// A broker that keeps nothing and answers at once: what is measured is the client
    AnswerAtOnce,
    /// One real node, started for the run
    Kafka,
}

impl Against {
    fn name(self) -> &'static str {
        match self {
            Self::AnswerAtOnce => "answer-at-once",
            Self::Kafka => "kafka",
        }
    }
}

fn known_case(name: &str) -> Result<&'static Case, String> {
    let known = || CASES.iter().map(|case| case.name).collect::<Vec<_>>().join(", ");
    CASES.iter().find(|case| case.name == name).ok_or_else(|| format!("say one of {}", known()))
}

fn known_client(name: &str) -> Result<&'static Client, String> {
    let known = || CLIENTS.iter().map(|client| client.name).collect::<Vec<_>>().join(", ");
    CLIENTS.iter().find(|client| client.name == name).ok_or_else(|| format!("say one of {}", known()))
}

pub(crate) fn run(arguments: &Arguments, records: u64) -> Outcome {
    let wanted = |client: &&Client| {
        arguments.clients.is_empty()
            || client.is_ours()
            || arguments.clients.iter().any(|other| other.name == client.name)
    };
    let cases: Vec<&Case> = if arguments.cases.is_empty() { CASES.iter().collect() } else { arguments.cases.to_vec() };
    let mut failures = Vec::new();
    let mut built = Vec::new();
    for client in CLIENTS.iter().filter(wanted) {
        println!("building {}", client.name);
        let outcome = client.build().map_err(|error| error.to_string());
        if let Err(failure) = &outcome {
            eprintln!("peers: NOT BUILT: {}: {failure}", client.name);
            failures.push(format!("{} was not built", client.name));
        }
        built.push((client, outcome));
    }
    let broker = Broker::prepare(arguments.against)?;
    let mut tables = Vec::new();
    for case in cases {
        let entrants = built.iter().flat_map(|(client, outcome)| client.entrants(case, outcome));
        let table = measure(&broker, arguments, case, entrants.collect(), case.records(records))?;
        println!("\n{table}");
        failures.extend(table.failures());
        tables.push(table);
        // Written as they come: who ends the command early has what was measured.
        save(arguments.against, &tables)?;
    }
    println!("\n{}", clients::NOTES);
    for file in files(arguments.against) {
        println!("written: {}", file.display());
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ").into()) }
}

/// One case: all clients in turn, as often as there are rounds, and then each once with its allocations counted.
fn measure(
    broker: &Broker,
    arguments: &Arguments,
    case: &Case,
    mut entrants: Vec<Entrant>,
    records: u64,
) -> Outcome<Table> {
    let rounds = arguments.rounds;
    let mut serving = broker.serve(case, records)?;
    let load_before = load();
    for round in 0..rounds {
        // Nobody always runs first, or always after the same one.
        let n_entrants = entrants.len();
        for place in 0..n_entrants {
            let entrant = &mut entrants[(place + round) % n_entrants];
            if entrant.failure.is_none() {
                let topic = serving.topic(case)?;
                eprint!("\r{}: round {} of {rounds}, {:<24}", case.name, round + 1, entrant.name());
                let outcome = entrant.run(case, serving.bootstrap(), topic.name(), records);
                let sent = serving.tally(case, &topic)?;
                topic.drop()?;
                match outcome {
                    Ok(run) => entrant.ran(run, case, sent),
                    Err(failure) => entrant.fails(&failure.to_string()),
                }
            }
        }
    }
    for entrant in entrants.iter_mut().filter(|entrant| entrant.failure.is_none()) {
        let topic = serving.topic(case)?;
        eprint!("\r{}: allocations, {:<32}", case.name, entrant.name());
        let outcome = entrant.count(case, serving.bootstrap(), topic.name(), records);
        topic.drop()?;
        match outcome {
            Ok(run) => entrant.counted = Some(run),
            Err(failure) => entrant.fails(&failure.to_string()),
        }
    }
    eprintln!();
    figures::agree(&mut entrants);
    Ok(Table::new(case, arguments.against, entrants, records, load_before, load()))
}

/// What else the machine has to do: the mean number of processes that want to run, over the last minute.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

fn files(against: Against) -> [PathBuf; 2] {
    let folder = host::target().join("bench");
    ["csv", "svg"].map(|kind| folder.join(format!("peers-{}.{kind}", against.name())))
}

fn save(against: Against, tables: &[Table]) -> Outcome {
    let [csv, svg] = files(against);
    fs::create_dir_all(host::target().join("bench"))?;
    fs::write(csv, figures::csv(against.name(), tables))?;
    fs::write(svg, chart::svg(against.name(), tables))?;
    Ok(())
}
