//! `milena consume`: records become lines of stdout.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufWriter, Stdout, Write as _};
use std::time::Duration;

use milena_client::TopicPartition;
use milena_client::consumer::{
    AssignmentEpoch, CommitError, ConsumeError, Consumer, ConsumerEvent, ConsumerRecord, OffsetAndMetadata,
    OffsetRefused, OffsetReset, RecordSet, Start,
};
use tokio::time::{MissedTickBehavior, interval};

use crate::args::{ConsumeArgs, From, OutputFormat};
use crate::connect;
use crate::failure::{Failure, Trying as _};
use crate::interrupt::interrupted;
use crate::jsonl::{self, Encoding, NotText, OutputRecord};
use crate::stdout;

/// How long the consumer may take to commit and to leave its group.
const CLOSE: Duration = Duration::from_secs(10);
/// How often a group commits what was printed; the help of `--group` says so.
const COMMIT_EVERY: Duration = Duration::from_secs(3);
/// How often --exit-at-end looks where the reading has got to while nothing is printed: what a consumer does not show
/// (markers of transactions, aborted records) moves its position without a word.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(crate) async fn run(args: ConsumeArgs) -> Result<(), Failure> {
    if args.group.is_some() && matches!(args.from, From::Offset(_)) {
        return Err(Failure::Usage("--from OFFSET is for reading without --group: a group has its own offsets".into()));
    }
    let servers = args.bootstrap.servers()?;
    if args.max == Some(0) {
        return Ok(());
    }
    let client = connect::client(servers).await?;
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
    /// With --exit-at-end: where the reading of each partition ends that is held.
    ends: BTreeMap<TopicPartition, i64>,
    /// Whether it is known what is held: a member between two assignments holds nothing, and is not done.
    is_assigned: bool,
    /// What was printed and is not committed yet.
    uncommitted: BTreeMap<TopicPartition, (i64, i32, AssignmentEpoch)>,
}

impl<'a> Printer<'a> {
    fn new(args: &'a ConsumeArgs, consumer: Consumer) -> Self {
        let out = BufWriter::with_capacity(64 * 1024, std::io::stdout());
        Self {
            args,
            consumer,
            out,
            printed: 0,
            ends: BTreeMap::new(),
            is_assigned: false,
            uncommitted: BTreeMap::new(),
        }
    }

    async fn run(&mut self) -> Result<(), Failure> {
        self.start().await?;
        let mut look = interval(LOOK_EVERY);
        let mut commit = interval(COMMIT_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        commit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.is_done() {
            // Called off, `next` takes nothing with it.
            tokio::select! {
                biased;
                _ = commit.tick(), if self.args.group.is_some() => self.commit_meanwhile().await,
                event = self.consumer.next() => match event {
                    // The consumer goes on trying by itself; whether to wait is for whoever watches. Of what it can't
                    // reach it has warned already, where all warnings go.
                    Err(ConsumeError::Unreachable { .. }) => {}
                    Err(error) if error.class().is_retriable() => {
                        tracing::warn!(topic = self.args.topic, %error, "cannot consume for now");
                    }
                    event => self.take(event.trying(format_args!("cannot consume {}", self.args.topic))?).await?,
                },
                _ = look.tick(), if self.args.exit_at_end => {}
            }
        }
        Ok(())
    }

    async fn take(&mut self, event: ConsumerEvent) -> Result<(), Failure> {
        match event {
            ConsumerEvent::Records(set) => self.print(&set)?,
            ConsumerEvent::Assigned(assignment) => {
                self.note_ends(assignment.partitions()).await?;
                self.is_assigned = true;
            }
            ConsumerEvent::Revoked(guard) => {
                self.commit().await.trying("cannot commit what was printed")?;
                // Whoever gets them reads them to their ends.
                self.no_longer_holds(guard.partitions());
            }
            ConsumerEvent::Lost(partitions) => {
                self.uncommitted.retain(|partition, _| !partitions.contains(partition));
                self.no_longer_holds(&partitions);
            }
            _ => {}
        }
        Ok(())
    }

    fn no_longer_holds(&mut self, partitions: &[TopicPartition]) {
        self.ends.retain(|partition, _| !partitions.contains(partition));
        // A rebalance goes on until the next assignment, be it of nothing.
        self.is_assigned = false;
    }

    async fn start(&mut self) -> Result<(), Failure> {
        let topic = &self.args.topic;
        if self.args.group.is_some() {
            if self.args.exit_at_end {
                // A member of a topic that is not there holds nothing, and would take that for the end.
                connect::partitions(self.consumer.client(), topic).await?;
            }
            return self.consumer.subscribe([topic]).trying(format_args!("cannot subscribe to {topic}"));
        }
        let partitions = connect::partitions(self.consumer.client(), topic).await?;
        self.note_ends(&partitions).await?;
        self.is_assigned = true;
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

    /// Remembers where the partitions end now, if that matters.
    async fn note_ends(&mut self, partitions: &[TopicPartition]) -> Result<(), Failure> {
        if self.args.exit_at_end && !partitions.is_empty() {
            let what = format!("cannot find the ends of {}", self.args.topic);
            self.ends.extend(self.consumer.end_offsets(partitions.iter().cloned()).await.trying(what)?);
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
        self.uncommitted.insert(set.topic_partition().clone(), (next, set.leader_epoch(), set.epoch()));
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
        let is_behind = |(partition, end): (&TopicPartition, &i64)| {
            // Unknown until the first offset is: the committed one, or where one begins without.
            self.consumer.position(partition).is_none_or(|position| position < *end)
        };
        let at_end = self.args.exit_at_end && self.is_assigned && !self.ends.iter().any(is_behind);
        full || at_end
    }

    /// Commits what was printed. Called off or refused, it is still to be committed.
    async fn commit(&mut self) -> Result<(), CommitError> {
        if self.args.group.is_none() {
            return Ok(());
        }
        let commits = self.uncommitted.iter().map(|(partition, (offset, leader_epoch, epoch))| {
            let leader_epoch = Some(*leader_epoch).filter(|epoch| *epoch >= 0);
            let offset = OffsetAndMetadata { offset: *offset, leader_epoch, ..OffsetAndMetadata::default() };
            (partition.clone(), offset, *epoch)
        });
        self.consumer.commit(commits).await?;
        self.uncommitted.clear();
        Ok(())
    }

    /// So that a crash prints again what it has printed in the last seconds, and no more. A commit that failed is made
    /// again, at the end if not before.
    async fn commit_meanwhile(&mut self) {
        let Err(error) = self.commit().await else { return };
        tracing::warn!(topic = self.args.topic, %error, "cannot commit for now");
        for (partition, why) in error.refused {
            // Another member's by now: its word counts.
            if why == OffsetRefused::StaleEpoch {
                self.uncommitted.remove(&partition);
            }
        }
    }

    async fn close(mut self) -> Result<(), Failure> {
        // A reader that went away is no reason to leave the group waiting for this member.
        let flushed = self.out.flush();
        let committed = self.commit().await.trying("cannot commit what was printed");
        let left = self.consumer.close(CLOSE).await.trying("cannot leave the group in good order");
        flushed?;
        committed.and(left)
    }
}
