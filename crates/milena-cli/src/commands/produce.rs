//! `milena produce`: lines of stdin become records.

use std::collections::VecDeque;
use std::error::Error;
use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};
use milena_client::producer::{Delivery, ProduceError, Producer, Record, RecordHeader, RecordMetadata};
use tokio::io::{AsyncBufReadExt as _, BufReader, Stdin};

use crate::args::{InputFormat, ProduceArgs};
use crate::connect;
use crate::failure::{Failure, Trying as _, told};
use crate::jsonl::{self, Encoding, InputRecord};

/// How many records may be unacknowledged; the producer's own memory bounds the bytes.
const WINDOW: usize = 10_000;

pub(crate) async fn run(args: ProduceArgs) -> Result<(), Failure> {
    let client = connect::client(args.bootstrap.servers()?).await?;
    let producer = connect::producer(&client, args.compression)?;
    let mut sender =
        Sender { producer, topic: args.topic.clone(), waiting: VecDeque::new(), delivered: 0, progress: progress() };
    let read = sender.send_all(&args).await;
    // Whatever stopped the reading, what was read before it is delivered.
    let delivered = sender.finish().await;
    connect::close(&client).await;
    read.and(delivered)
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
    progress: ProgressBar,
}

impl Sender {
    async fn send_all(&mut self, args: &ProduceArgs) -> Result<(), Failure> {
        let mut input = BufReader::with_capacity(256 * 1024, tokio::io::stdin());
        let mut line = Vec::new();
        let mut number = 0;
        loop {
            line.clear();
            while !self.read_line(&mut input, &mut line).await? {}
            if line.is_empty() {
                return Ok(());
            }
            number += 1;
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if args.format == InputFormat::Jsonl && text.trim_ascii().is_empty() {
                continue;
            }
            let record = parse(text, args).map_err(|what| bad_line(number, &what))?;
            self.send(number, &record).await?;
        }
    }

    /// Reads on, and says whether `line` is whole, or empty at the end of the input. Meanwhile it hears what becomes of
    /// the oldest record: stdin may be slow or endless, and a record that was refused is news at once.
    async fn read_line(&mut self, input: &mut BufReader<Stdin>, line: &mut Vec<u8>) -> Result<bool, Failure> {
        let Some((number, delivery)) = self.waiting.front_mut() else {
            return input.read_until(b'\n', line).await.trying("cannot read stdin").map(|_| true);
        };
        let number = *number;
        tokio::select! {
            biased;
            // Called off halfway it leaves what it has read in `line`, and goes on from there.
            read = input.read_until(b'\n', line) => read.trying("cannot read stdin").map(|_| true),
            delivered = delivery => {
                self.waiting.pop_front();
                self.settle(number, delivered)?;
                Ok(false)
            }
        }
    }

    async fn send(&mut self, line: u64, record: &InputRecord) -> Result<(), Failure> {
        if self.waiting.len() >= WINDOW {
            self.settle_oldest().await?;
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

    async fn settle_oldest(&mut self) -> Result<(), Failure> {
        let Some((line, delivery)) = self.waiting.pop_front() else { return Ok(()) };
        let delivered = delivery.await;
        self.settle(line, delivered)
    }

    fn settle(&mut self, line: u64, delivered: Result<RecordMetadata, ProduceError>) -> Result<(), Failure> {
        delivered.map_err(|error| self.refused(line, &error))?;
        self.delivered += 1;
        self.progress.inc(1);
        Ok(())
    }

    fn refused(&self, line: u64, error: &(dyn Error + 'static)) -> Failure {
        bad_line(line, &format!("cannot produce to topic {}: {}", self.topic, told(error)))
    }

    /// Waits for every record, and tells the first failure once all have been heard of.
    async fn finish(&mut self) -> Result<(), Failure> {
        self.producer.flush().await;
        let mut outcome = Ok(());
        while !self.waiting.is_empty() {
            if let Err(failure) = self.settle_oldest().await {
                match outcome {
                    Ok(()) => outcome = Err(failure),
                    Err(_) => {
                        failure.report();
                    }
                }
            }
        }
        self.progress.finish_and_clear();
        tracing::info!(records = self.delivered, topic = self.topic, "delivered");
        outcome
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
