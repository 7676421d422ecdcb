//! `milena consume`: records become lines of stdout.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufWriter, Stdout, Write as _};
use std::time::Duration;

use milena_client::TopicPartition;
use milena_client::consumer::{
    AssignmentEpoch, Consumer, ConsumerEvent, ConsumerRecord, OffsetAndMetadata, OffsetReset, RecordSet, Start,
};

use crate::args::{ConsumeArgs, From, OutputFormat};
use crate::connect;
use crate::failure::{Failure, Trying as _};
use crate::interrupt::interrupted;
use crate::jsonl::{self, Encoding, NotText, OutputRecord};
use crate::stdout;

/// How long the consumer may take to commit and to leave its group.
const CLOSE: Duration = Duration::from_secs(10);

pub(crate) async fn run(args: ConsumeArgs) -> Result<(), Failure> {
    if args.max == Some(0) {
        return Ok(());
    }
    if args.group.is_some() && matches!(args.from, From::Offset(_)) {
        return Err(Failure::Usage("--from OFFSET is for reading without --group: a group has its own offsets".into()));
    }
    let client = connect::client(args.bootstrap.servers()?).await?;
    let reset = match args.from {
        From::End => OffsetReset::Latest,
        From::Beginning | From::Offset(_) => OffsetReset::Earliest,
    };
    let mut builder = Consumer::builder(&client).auto_offset_reset(reset);
    if let Some(group) = &args.group {
        builder = builder.group(group);
    }
    let consumer = builder.build().map_err(|error| Failure::Usage(error.to_string()))?;
    let mut printer = Printer::new(&args, consumer);
    let outcome = tokio::select! {
        outcome = printer.run() => outcome,
        // Ctrl-C is how one ends an endless reading: what was printed is committed, and nothing failed.
        interrupted = interrupted() => interrupted.trying("cannot wait for a signal"),
        () = stdout::reader_gone() => Err(Failure::ReaderGone),
    };
    let closed = printer.close().await;
    connect::close(&client).await;
    outcome.and(closed)
}

struct Printer<'a> {
    args: &'a ConsumeArgs,
    consumer: Consumer,
    out: BufWriter<Stdout>,
    printed: u64,
    /// Where each partition's reading ends, with --exit-at-end.
    ends: BTreeMap<TopicPartition, i64>,
    /// What was printed and is not committed yet.
    uncommitted: BTreeMap<TopicPartition, (i64, i32, AssignmentEpoch)>,
}

impl<'a> Printer<'a> {
    fn new(args: &'a ConsumeArgs, consumer: Consumer) -> Self {
        let out = BufWriter::with_capacity(64 * 1024, std::io::stdout());
        Self { args, consumer, out, printed: 0, ends: BTreeMap::new(), uncommitted: BTreeMap::new() }
    }

    async fn run(&mut self) -> Result<(), Failure> {
        self.start().await?;
        if self.args.group.is_none() && self.is_done() {
            return Ok(());
        }
        loop {
            let event = match self.consumer.next().await {
                // The consumer goes on trying by itself; whether to wait is for whoever watches.
                Err(error) if error.class().is_retriable() => {
                    tracing::warn!(topic = self.args.topic, %error, "cannot consume for now");
                    continue;
                }
                event => event.trying(format_args!("cannot consume {}", self.args.topic))?,
            };
            match event {
                ConsumerEvent::Records(set) => self.print(&set)?,
                ConsumerEvent::Assigned(assignment) if self.args.exit_at_end => {
                    self.note_ends(assignment.partitions()).await?;
                }
                ConsumerEvent::Revoked(guard) => {
                    self.commit().await?;
                    // Whoever gets them reads them to their ends.
                    self.ends.retain(|partition, _| !guard.partitions().contains(partition));
                }
                ConsumerEvent::Lost(partitions) => {
                    for partition in partitions {
                        self.uncommitted.remove(&partition);
                        self.ends.remove(&partition);
                    }
                }
                _ => {}
            }
            if self.is_done() {
                return Ok(());
            }
        }
    }

    async fn start(&mut self) -> Result<(), Failure> {
        let topic = &self.args.topic;
        if self.args.group.is_some() {
            return self.consumer.subscribe([topic]).trying(format_args!("cannot subscribe to {topic}"));
        }
        let partitions = connect::partitions(self.consumer.client(), topic).await?;
        if self.args.exit_at_end {
            self.note_ends(&partitions).await?;
        }
        let mut assigned = Vec::with_capacity(partitions.len());
        match self.args.from {
            From::Beginning => assigned.extend(partitions.into_iter().map(|held| (held, Start::Beginning))),
            From::End => assigned.extend(partitions.into_iter().map(|held| (held, Start::End))),
            From::Offset(offset) => {
                let what = format!("cannot find the ends of {topic}");
                let ends = self.consumer.end_offsets(partitions).await.trying(what)?;
                // A partition may be shorter than that: what comes before the offset is left out by `print`.
                assigned.extend(ends.into_iter().map(|(held, end)| (held, Start::Offset(offset.min(end)))));
            }
        }
        let assigned = assigned.iter().map(|(held, start)| (&held.topic, held.partition, *start));
        self.consumer.assign(assigned).trying(format_args!("cannot read {topic}"))
    }

    /// Remembers where the partitions end now; one without anything left to read is at its end already.
    async fn note_ends(&mut self, partitions: &[TopicPartition]) -> Result<(), Failure> {
        let what = format!("cannot find the ends of {}", self.args.topic);
        let ends = self.consumer.end_offsets(partitions.iter().cloned()).await.trying(&what)?;
        let starts = self.consumer.beginning_offsets(partitions.iter().cloned()).await.trying(&what)?;
        let committed = match self.args.group {
            Some(_) => self.consumer.committed(partitions.iter().cloned()).await.trying(&what)?,
            None => BTreeMap::new(),
        };
        for (partition, end) in ends {
            let from = match (committed.get(&partition), self.args.from) {
                (Some(committed), _) => committed.offset,
                (None, From::Offset(offset)) => offset,
                (None, From::End) => end,
                (None, From::Beginning) => starts.get(&partition).copied().unwrap_or(0),
            };
            self.ends.insert(partition, if from >= end { REACHED } else { end });
        }
        Ok(())
    }

    fn print(&mut self, set: &RecordSet) -> Result<(), Failure> {
        let mut next = set.next_offset();
        let mut outcome = Ok(());
        for record in set.iter() {
            if matches!(self.args.from, From::Offset(from) if record.offset < from) {
                continue;
            }
            if self.args.max.is_some_and(|max| self.printed >= max) {
                next = record.offset;
                break;
            }
            match self.line(&record) {
                Ok(line) => self.out.write_all(&line)?,
                Err(not_text) => {
                    // What comes before it is printed and counts.
                    next = record.offset;
                    outcome = Err(Failure::Failed(not_text.to_string()));
                    break;
                }
            }
            self.out.write_all(b"\n")?;
            self.printed += 1;
        }
        self.out.flush()?;
        let partition = set.topic_partition().clone();
        if let Some(end) = self.ends.get_mut(&partition).filter(|end| next >= **end) {
            *end = REACHED;
        }
        self.uncommitted.insert(partition, (next, set.leader_epoch(), set.epoch()));
        outcome
    }

    fn line<'r>(&self, record: &ConsumerRecord<'r>) -> Result<Cow<'r, [u8]>, NotText> {
        let encoding = self.args.encoding;
        if self.args.format == OutputFormat::Value {
            let value = record.value.unwrap_or_default();
            return Ok(match encoding {
                // As they are: whoever wants nothing but values may want bytes of any kind.
                Encoding::Utf8 => Cow::Borrowed(value),
                Encoding::Base64 => Cow::Owned(jsonl::base64(value).into_bytes()),
            });
        }
        let names: Vec<_> = record.headers.iter().map(|header| header.name()).collect();
        let headers: Vec<_> = names.iter().zip(record.headers).map(|(name, header)| (&**name, header.value)).collect();
        let line = OutputRecord {
            partition: record.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            headers: &headers,
        };
        jsonl::format(line, encoding).map(|line| Cow::Owned(line.into_bytes()))
    }

    fn is_done(&self) -> bool {
        let full = self.args.max.is_some_and(|max| self.printed >= max);
        let at_end = self.args.exit_at_end && !self.ends.is_empty() && self.ends.values().all(|end| *end == REACHED);
        full || at_end
    }

    async fn commit(&mut self) -> Result<(), Failure> {
        if self.args.group.is_none() || self.uncommitted.is_empty() {
            return Ok(());
        }
        let commits = std::mem::take(&mut self.uncommitted).into_iter();
        let commits = commits.map(|(partition, (offset, leader_epoch, epoch))| {
            let leader_epoch = Some(leader_epoch).filter(|epoch| *epoch >= 0);
            (partition, OffsetAndMetadata { offset, leader_epoch, ..OffsetAndMetadata::default() }, epoch)
        });
        self.consumer.commit(commits).await.trying("cannot commit what was printed")
    }

    async fn close(mut self) -> Result<(), Failure> {
        // A reader that went away is no reason to leave the group waiting for this member.
        let flushed = self.out.flush();
        let committed = self.commit().await;
        let left = self.consumer.close(CLOSE).await.trying("cannot leave the group in good order");
        flushed?;
        committed.and(left)
    }
}

/// In `ends`: there is nothing left to read.
const REACHED: i64 = i64::MIN;
