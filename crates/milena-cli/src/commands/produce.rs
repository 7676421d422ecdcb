//! `milena produce`: lines of stdin become records.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::io::{self, IsTerminal as _};

use indicatif::{ProgressBar, ProgressStyle};
use milena_client::producer::{Delivery, ProduceError, Producer, Record, RecordHeader, RecordMetadata};
use tokio::io::{AsyncBufReadExt as _, BufReader, Stdin};
use tokio::sync::oneshot;

use crate::args::{InputFormat, ProduceArgs};
use crate::connect;
use crate::failure::{Failure, Trying as _, told};
use crate::interrupt::Interrupts;
use crate::jsonl::{self, Encoding, InputRecord};

/// How many records may be unacknowledged; the producer's own memory bounds the bytes.
const WINDOW: usize = 10_000;

const DEAF: &str = "cannot wait for a signal";

/// Resolves when nothing more is to be read.
type Stopped = oneshot::Receiver<io::Result<()>>;

pub(crate) async fn run(args: ProduceArgs) -> Result<(), Failure> {
    let client = connect::client(args.bootstrap.servers()?).await?;
    let producer = connect::producer(&client, args.compression)?;
    let mut sender = Sender {
        producer,
        topic: args.topic.clone(),
        waiting: VecDeque::new(),
        delivered: 0,
        failures: BTreeMap::new(),
        progress: progress(),
    };
    let mut interrupts = Interrupts::new().trying(DEAF)?;
    let (stop, stopped) = oneshot::channel();
    // Nothing but the reading is called off by the first: a line in hand, or a delivery that is waited for, would be
    // lost without a word.
    let impatient = async {
        let _ = stop.send(interrupts.next().await);
        if interrupts.next().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let outcome = tokio::select! {
        biased;
        () = sender.run(&args, stopped) => Ok(()),
        () = impatient => Err(Failure::Failed("interrupted before all that was read was acknowledged".to_owned())),
    };
    let failures = std::mem::take(&mut sender.failures);
    drop(sender);
    if outcome.is_ok() {
        connect::close(&client).await;
    }
    told_all(failures, outcome)
}

/// Each line that is known not to be on the broker is worth a line on stderr, whatever became of the others.
fn told_all(mut failures: BTreeMap<u64, Failure>, outcome: Result<(), Failure>) -> Result<(), Failure> {
    let last = match outcome {
        Err(failure) => failure,
        Ok(()) => match failures.pop_last() {
            Some((_, last)) => last,
            None => return Ok(()),
        },
    };
    for failure in failures.into_values() {
        failure.report();
    }
    Err(last)
}

fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() || std::io::stdin().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {pos} records delivered, {per_sec}");
    ProgressBar::new_spinner().with_style(style.expect("the template is a constant that parses"))
}

struct Sender {
    producer: Producer,
    topic: String,
    /// With the number of the line each came from.
    waiting: VecDeque<(u64, Delivery)>,
    delivered: u64,
    /// What went wrong, by line; the first ends the reading.
    failures: BTreeMap<u64, Failure>,
    progress: ProgressBar,
}

impl Sender {
    /// Ctrl-C is how one ends an endless input, and nothing failed. Whatever ends the reading, what was read before it
    /// is delivered.
    async fn run(&mut self, args: &ProduceArgs, stopped: Stopped) {
        self.send_all(args, stopped).await;
        self.finish().await;
    }

    async fn send_all(&mut self, args: &ProduceArgs, mut stopped: Stopped) {
        let mut input = BufReader::with_capacity(256 * 1024, tokio::io::stdin());
        let mut line = Vec::new();
        let mut number = 0;
        while self.failures.is_empty() {
            line.clear();
            number += 1;
            match self.read_line(&mut input, &mut line, &mut stopped).await {
                Ok(()) if line.is_empty() => return,
                Ok(()) => {
                    if let Err(failure) = self.take(number, &line, args).await {
                        self.failures.insert(number, failure);
                    }
                }
                Err(failure) => drop(self.failures.insert(number, failure)),
            }
        }
    }

    /// Reads a whole line, or nothing at the end of the input, once a record was lost and when it is `stopped`. Meanwhile
    /// it hears what becomes of the oldest record: stdin may be slow or endless, and a record that was refused is news
    /// at once.
    async fn read_line(
        &mut self,
        input: &mut BufReader<Stdin>,
        line: &mut Vec<u8>,
        stopped: &mut Stopped,
    ) -> Result<(), Failure> {
        loop {
            tokio::select! {
                // First what is in memory already: all whole lines of that are taken before the end is heard of.
                biased;
                // Called off halfway it leaves what it has read in `line`, and goes on from there.
                read = input.read_until(b'\n', line) => return read.trying("cannot read stdin").map(drop),
                heard = &mut *stopped => {
                    // A line of which only a part was read is none.
                    line.clear();
                    return heard.unwrap_or(Ok(())).trying(DEAF);
                }
                () = self.settle_oldest(), if !self.waiting.is_empty() => {
                    if !self.failures.is_empty() {
                        line.clear();
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn take(&mut self, number: u64, line: &[u8], args: &ProduceArgs) -> Result<(), Failure> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if args.format == InputFormat::Jsonl && text.trim_ascii().is_empty() {
            return Ok(());
        }
        let record = parse(text, args).map_err(|what| bad_line(number, &what))?;
        self.send(number, &record).await
    }

    async fn send(&mut self, line: u64, record: &InputRecord) -> Result<(), Failure> {
        if self.waiting.len() >= WINDOW {
            self.settle_oldest().await;
        }
        let headers: Vec<RecordHeader<'_>> =
            record.headers.iter().map(|(key, value)| RecordHeader { key, value: value.as_deref() }).collect();
        let out = Record {
            topic: &self.topic,
            partition: record.partition,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
            timestamp: record.timestamp,
        };
        let delivery = self.producer.send(out).await.map_err(|error| self.refused(line, &error))?;
        self.waiting.push_back((line, delivery));
        Ok(())
    }

    /// Called off halfway it has heard of nothing, and the oldest is the oldest still.
    async fn settle_oldest(&mut self) {
        if let Some((line, delivery)) = self.waiting.front_mut() {
            let (line, delivered) = (*line, delivery.await);
            self.waiting.pop_front();
            self.settle(line, delivered);
        }
    }

    fn settle(&mut self, line: u64, delivered: Result<RecordMetadata, ProduceError>) {
        match delivered {
            Ok(_) => {
                self.delivered += 1;
                self.progress.inc(1);
            }
            Err(error) => drop(self.failures.insert(line, self.refused(line, &error))),
        }
    }

    fn refused(&self, line: u64, error: &(dyn Error + 'static)) -> Failure {
        bad_line(line, &format!("cannot produce to topic {}: {}", self.topic, told(error)))
    }

    /// Waits until all records have been heard of.
    async fn finish(&mut self) {
        self.producer.flush().await;
        while !self.waiting.is_empty() {
            self.settle_oldest().await;
        }
        self.progress.finish_and_clear();
        tracing::info!(records = self.delivered, topic = self.topic, "delivered");
    }
}

fn parse(text: &[u8], args: &ProduceArgs) -> Result<InputRecord, String> {
    match (args.format, args.encoding) {
        (InputFormat::Jsonl, encoding) => {
            let text = std::str::from_utf8(text).map_err(|error| format!("not UTF-8: {error}"))?;
            jsonl::parse(text, encoding).map_err(|error| error.to_string())
        }
        // Bytes of any kind may stand in a line that is a value as it is.
        (InputFormat::Lines, Encoding::Utf8) => {
            Ok(InputRecord { value: Some(text.to_vec()), ..InputRecord::default() })
        }
        (InputFormat::Lines, Encoding::Base64) => {
            let value = jsonl::from_base64("value", text).map_err(|error| error.to_string())?;
            Ok(InputRecord { value: Some(value), ..InputRecord::default() })
        }
    }
}

fn bad_line(number: u64, what: &str) -> Failure {
    Failure::Failed(format!("line {number}: {what}"))
}
