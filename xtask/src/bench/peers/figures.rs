//! Figures of a case: medians with the least and the most, beside milena's, as text and as CSV. Who failed keeps a row.

use std::fmt;

use super::Against;
use super::cases::Budget;
use super::cases::Case;
use super::clients::Entrant;
use super::clients::Run;

/// A case, measured.
pub(super) struct Table {
    pub(super) title: String,
    budget: Budget,
    against: Against,
    name: &'static str,
    records: u64,
    /// The machine's load before and after.
    load: (String, String),
    pub(super) rows: Vec<Row>,
}

/// A client in a case.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) is_ours: bool,
    has_budget: bool,
    is_owned: bool,
    is_full: bool,
    pub(super) figures: Result<Figures, String>,
}

/// Medians over the rounds.
pub(super) struct Figures {
    rounds: usize,
    /// CPU, µs per record.
    pub(super) cpu: Spread,
    /// CPU as a multiple of milena's.
    pub(super) ratio: Option<f64>,
    records_per_second: f64,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    peak_resident_mib: f64,
    /// Of the last run: how full batches were, and what a record was on the wire.
    records_per_batch: Option<f64>,
    sent_bytes: Option<f64>,
    allocations: Option<f64>,
    allocated_bytes: Option<f64>,
}

/// A median, with the least and the most.
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

/// Consumers of one partition have read the same bytes, or somebody's reading is wrong: milena's, where it stands alone.
pub(super) fn agree(entrants: &mut [Entrant]) {
    let bytes_of = |entrant: &Entrant| entrant.runs.first().map(|run| run.payload_bytes);
    let mut seen: Vec<u64> = entrants.iter().filter_map(bytes_of).collect();
    seen.sort_unstable();
    let Some(usual) = seen.get(seen.len() / 2).copied() else { return };
    for entrant in entrants {
        if let Some(run) = entrant.runs.iter().find(|run| run.payload_bytes != usual) {
            let failure = format!("read {} bytes of keys and values, and most others {usual}", run.payload_bytes);
            entrant.fails(&failure);
        }
    }
}

impl Table {
    pub(super) fn new(
        case: &Case,
        against: Against,
        entrants: Vec<Entrant>,
        records: u64,
        load_before: String,
        load_after: String,
    ) -> Self {
        let mut rows: Vec<Row> = entrants.into_iter().map(Row::new).collect();
        let ours = rows.iter().find(|row| row.is_ours).and_then(|row| row.figures.as_ref().ok());
        if let Some(ours) = ours.map(|figures| figures.cpu.median) {
            for figures in rows.iter_mut().filter_map(|row| row.figures.as_mut().ok()) {
                figures.ratio = Some(figures.cpu.median / ours);
            }
        }
        Self {
            title: case.title(),
            budget: case.budget,
            against,
            name: case.name,
            records,
            load: (load_before, load_after),
            rows,
        }
    }

    /// milena's rows beside what they are to cost.
    pub(super) fn verdicts(&self) -> Vec<String> {
        let full = self.rows.iter().filter(|row| !row.is_ours && row.is_full);
        let cheapest = full.filter_map(|row| row.figures.as_ref().ok()).map(|figures| figures.cpu.median);
        let cheapest = cheapest.min_by(f64::total_cmp);
        let mut verdicts = Vec::new();
        for row in self.rows.iter().filter(|row| row.has_budget) {
            let Ok(figures) = &row.figures else { continue };
            let mut judge = |what: &str, figure: f64, most: f64| {
                let verdict = if figure <= most { "met" } else { "MISSED" };
                verdicts.push(format!("{}: {what} {figure:.3}, budget {most:.3}: {verdict}", row.name));
            };
            let of = |budget: [f64; 2]| budget[usize::from(row.is_owned)];
            if let (Some(cpu), Against::AnswerAtOnce) = (self.budget.cpu_us, self.against) {
                judge("CPU µs", figures.cpu.median, of(cpu));
            }
            if let (Some(share), Against::Kafka, Some(cheapest)) = (self.budget.share, self.against, cheapest) {
                judge(
                    "CPU beside the cheapest client with the full contract",
                    figures.cpu.median / cheapest,
                    of(share),
                );
            }
            if let Some([p50, p99]) = self.budget.latency_us {
                figures.p50_us.into_iter().for_each(|us| judge("p50 µs", us, p50));
                figures.p99_us.into_iter().for_each(|us| judge("p99 µs", us, p99));
            }
        }
        verdicts
    }

    pub(super) fn failures(&self) -> Vec<String> {
        let failure = |row: &Row| row.figures.as_ref().err().map(|why| format!("{} in {}: {why}", row.name, self.name));
        self.rows.iter().filter_map(failure).collect()
    }
}

impl Row {
    fn new(entrant: Entrant) -> Self {
        let figures = match &entrant.failure {
            Some(failure) => Err(failure.clone()),
            None => Figures::new(&entrant).ok_or_else(|| "no round was run".to_owned()),
        };
        Self {
            name: entrant.name(),
            is_ours: entrant.is_ours(),
            has_budget: entrant.has_budget(),
            is_owned: entrant.is_owned(),
            is_full: entrant.is_full(),
            figures,
        }
    }
}

impl Figures {
    fn new(entrant: &Entrant) -> Option<Self> {
        let (runs, counted) = (&entrant.runs, entrant.counted.as_ref());
        let sent = entrant.sent.as_ref().filter(|sent| sent.batches > 0);
        let middle = |figure: fn(&Run) -> Option<f64>| Some(spread(runs.iter().filter_map(figure).collect())?.median);
        Some(Self {
            rounds: runs.len(),
            cpu: spread(runs.iter().map(|run| run.cpu_us_per_record).collect())?,
            ratio: None,
            records_per_second: middle(|run| Some(run.records_per_second))?,
            p50_us: middle(|run| run.p50_us),
            p99_us: middle(|run| run.p99_us),
            peak_resident_mib: middle(|run| Some(run.peak_resident_mib))?,
            records_per_batch: sent.map(|sent| sent.records() as f64 / sent.batches as f64),
            sent_bytes: sent.map(|sent| sent.bytes as f64 / sent.records() as f64),
            allocations: counted.and_then(|run| run.allocations_per_record),
            allocated_bytes: counted.and_then(|run| run.allocated_bytes_per_record),
        })
    }
}

fn spread(mut figures: Vec<f64>) -> Option<Spread> {
    figures.sort_by(f64::total_cmp);
    let (least, most) = (*figures.first()?, *figures.last()?);
    let median = (figures[(figures.len() - 1) / 2] + figures[figures.len() / 2]) / 2.0;
    Some(Spread { median, least, most })
}

/// A figure where there is one, with so many decimals.
fn shown(figure: Option<f64>, decimals: usize) -> String {
    figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.decimals$}"))
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = &self.load;
        writeln!(
            f,
            "{} ({}): {} records a run, machine's load {before} to {after}",
            self.name, self.title, self.records
        )?;
        writeln!(
            f,
            "{:24} {:>6} {:>15} {:>8} {:>11} {:>8} {:>8} {:>12} {:>9} {:>8} {:>7}",
            "",
            "CPU",
            "least–most",
            "milena's",
            "thousand",
            "p50",
            "p99",
            "allocations",
            "peak RSS",
            "records",
            "B sent"
        )?;
        write!(
            f,
            "{:24} {:>6} {:>15} {:>8} {:>11} {:>8} {:>8} {:>12} {:>9} {:>8} {:>7}",
            "client", "µs", "µs", "times", "records/s", "ms", "ms", "per record", "MiB", "a batch", "each"
        )?;
        for row in &self.rows {
            match &row.figures {
                Err(failure) => write!(f, "\n{:24} FAILED: {failure}", row.name)?,
                Ok(figures) => write!(
                    f,
                    "\n{:24} {:>6.3} {:>15} {:>8} {:>11.0} {:>8} {:>8} {:>12} {:>9.1} {:>8} {:>7}",
                    row.name,
                    figures.cpu.median,
                    format!("{:.3}–{:.3}", figures.cpu.least, figures.cpu.most),
                    shown(figures.ratio, 2),
                    figures.records_per_second / 1e3,
                    shown(figures.p50_us.map(|us| us / 1e3), 2),
                    shown(figures.p99_us.map(|us| us / 1e3), 2),
                    shown(figures.allocations, 3),
                    figures.peak_resident_mib,
                    shown(figures.records_per_batch, 0),
                    shown(figures.sent_bytes, 0),
                )?,
            }
        }
        for verdict in self.verdicts() {
            write!(f, "\n  {verdict}")?;
        }
        Ok(())
    }
}

/// All cases, a line for each client in each.
pub(super) fn csv(against: &str, tables: &[Table]) -> String {
    let mut text = "against,case,records,client,rounds,cpu_us_per_record,cpu_us_least,cpu_us_most,times_milena,\
                    records_per_second,p50_us,p99_us,allocations_per_record,allocated_bytes_per_record,peak_rss_mib,\
                    records_per_batch,sent_bytes_per_record,load_before,load_after,failure\n"
        .to_owned();
    let cell = |figure: Option<f64>| figure.map_or_else(String::new, |figure| format!("{figure:.4}"));
    for table in tables {
        for row in &table.rows {
            let figures = row.figures.as_ref().ok();
            let numbers = [
                figures.map(|figures| figures.cpu.median),
                figures.map(|figures| figures.cpu.least),
                figures.map(|figures| figures.cpu.most),
                figures.and_then(|figures| figures.ratio),
                figures.map(|figures| figures.records_per_second),
                figures.and_then(|figures| figures.p50_us),
                figures.and_then(|figures| figures.p99_us),
                figures.and_then(|figures| figures.allocations),
                figures.and_then(|figures| figures.allocated_bytes),
                figures.map(|figures| figures.peak_resident_mib),
                figures.and_then(|figures| figures.records_per_batch),
                figures.and_then(|figures| figures.sent_bytes),
            ];
            let mut line =
                vec![against.to_owned(), table.name.to_owned(), table.records.to_string(), quoted(&row.name)];
            line.push(figures.map_or(0, |figures| figures.rounds).to_string());
            line.extend(numbers.map(cell));
            line.extend([table.load.0.clone(), table.load.1.clone()]);
            line.push(row.figures.as_ref().err().map_or_else(String::new, |failure| quoted(failure)));
            text.push_str(&line.join(","));
            text.push('\n');
        }
    }
    text
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}
