//! Where each assigned partition is read from: position, fetch offset, pauses, seeks and resets, the replica to read from
//! (KIP-392), and whether the log that was read is still the leader's (KIP-320, `truncation`). Holds no records and no
//! clock; knows nothing of sessions or buffers.
//!
//! Two offsets per partition: the *position* is the next record to hand over and moves only then; the *fetch offset* is
//! the next to ask the broker for and runs ahead of it. Every change of course bumps the partition's `version`, and an
//! answer that carries an older one is void.

use std::time::{Duration, Instant};

use super::{AssignmentEpoch, TopicPartition};

mod index;
mod truncation;

pub use self::index::Slot;
use self::index::{Index, Member};
pub use self::truncation::{Divergence, LogTruncation};

/// `auto.offset.reset`: where to begin without a committed offset, or when the broker no longer has the position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffsetReset {
    /// The oldest record there is.
    Earliest,
    /// The next record to be written.
    #[default]
    Latest,
    /// Tell the application.
    None,
    /// The first record younger than this (KIP-1106).
    ByDuration(Duration),
}

/// Where an assigned partition starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At this offset.
    Offset(i64),
    /// At the oldest record.
    Beginning,
    /// At the next record to be written.
    End,
    /// At the first record of this time (milliseconds since 1970) or later.
    Timestamp(i64),
    /// At the committed offset of the group, else as the reset policy says.
    Committed,
}

/// The question whose answer a partition waits for before it can be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// The offset committed by the group.
    Committed,
    /// The offset of a time: -1 latest, -2 earliest, as ListOffsets has it.
    Timestamp(i64),
    /// Where the leader's log ends for the epoch of the last record read (KIP-320), as the leader in an epoch of its own
    /// knows it.
    EpochEnd {
        /// The epoch of the last record.
        epoch: i32,
        /// The leader's epoch.
        leader_epoch: i32,
    },
}

/// An offset together with the epoch of the leader that wrote the record before it, -1 for unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochOffset {
    /// The offset of the next record.
    pub offset: i64,
    /// The epoch of the one before.
    pub epoch: i32,
}

impl EpochOffset {
    /// Of an epoch that is not known.
    pub fn unknown(offset: i64) -> Self {
        Self { offset, epoch: -1 }
    }
}

/// ListOffsets' timestamp for the log's end.
pub const LATEST: i64 = -1;
/// ListOffsets' timestamp for the log's start.
pub const EARLIEST: i64 = -2;

/// One assigned partition.
#[derive(Clone, Debug)]
pub struct Position {
    /// The spell of holding it.
    pub epoch: AssignmentEpoch,
    /// Bumped by whatever makes answers under way void.
    pub version: u64,
    /// Not to be fetched or handed over.
    pub paused: bool,
    /// Leader and its epoch, as metadata has them.
    pub leader: Option<(i32, i32)>,
    /// -1 until there is one, as for the next.
    high_watermark: i64,
    last_stable_offset: i64,
    position: EpochOffset,
    fetch_offset: EpochOffset,
    asking: bool,
    held_back: bool,
    /// The leader changed since the last record was fetched, and was not asked about it yet.
    unvalidated: bool,
    member: Option<Member>,
    rare: Option<Box<Rare>>,
}

/// What few partitions have, and no idle one pays for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rare {
    unresolved: Option<Unresolved>,
    /// The question is not put before.
    not_before: Option<Instant>,
    /// How often in a row the question had no answer.
    failures: u32,
    /// The replica that the leader named to read from, and until when.
    preferred: Option<(i32, Instant)>,
    /// A replica failed: until then the leader is not asked for another.
    leader_only: Option<Instant>,
}

/// A question to put to a coordinator or a leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The partition.
    pub partition: TopicPartition,
    /// Give back with the answer.
    pub version: u64,
    /// What to ask.
    pub unresolved: Unresolved,
}

/// There is no offset to start from, and the policy is to say so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{partition} has no offset to read from ({reason}) and auto.offset.reset is none: seek to one")]
pub struct NoOffset {
    /// The partition.
    pub partition: TopicPartition,
    /// What was missing.
    pub reason: &'static str,
}

/// All assigned partitions.
#[derive(Debug, Default)]
pub struct Positions {
    held: Index,
    reset: OffsetReset,
    versions: u64,
}

impl Positions {
    /// No partitions yet.
    pub fn new(reset: OffsetReset) -> Self {
        Self { held: Index::default(), reset, versions: 0 }
    }

    fn next_version(&mut self) -> u64 {
        self.versions += 1;
        self.versions
    }

    /// Starts holding `partition`.
    pub fn assign(&mut self, partition: TopicPartition, epoch: AssignmentEpoch, start: Start) {
        let version = self.next_version();
        let mut position = Position {
            epoch,
            version,
            paused: false,
            leader: None,
            high_watermark: -1,
            last_stable_offset: -1,
            position: EpochOffset::unknown(-1),
            fetch_offset: EpochOffset::unknown(-1),
            asking: false,
            held_back: false,
            unvalidated: false,
            member: None,
            rare: None,
        };
        position.start_at(start);
        self.held.insert(partition, position);
    }

    /// Stops holding it; what is under way for it is void.
    pub fn remove(&mut self, partition: &TopicPartition) -> Option<Position> {
        self.held.remove(partition)
    }

    /// The partition, if held.
    pub fn get(&self, partition: &TopicPartition) -> Option<&Position> {
        self.held.get(partition)
    }

    /// The partition, if held and nothing changed its course since `version`.
    pub fn current(&self, partition: &TopicPartition, version: u64) -> Option<&Position> {
        self.held.get(partition).filter(|position| position.version == version)
    }

    /// Changes the partition, if nothing changed its course since `version`.
    fn update<R>(
        &mut self,
        partition: &TopicPartition,
        version: u64,
        change: impl FnOnce(&mut Position) -> R,
    ) -> Option<R> {
        self.current(partition, version)?;
        self.update_held(partition, change)
    }

    fn update_held<R>(&mut self, partition: &TopicPartition, change: impl FnOnce(&mut Position) -> R) -> Option<R> {
        let slot = self.held.slot(partition)?;
        self.held.update(slot, change)
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// All partitions held, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &Position)> {
        self.held.iter()
    }

    /// Whether the partition is held in the very spell `epoch`.
    pub fn holds(&self, partition: &TopicPartition, epoch: AssignmentEpoch) -> bool {
        self.held.get(partition).is_some_and(|position| position.epoch == epoch)
    }

    /// Changes the course of a held partition; says whether it is held.
    pub fn seek(&mut self, partition: &TopicPartition, to: Start) -> bool {
        let version = self.next_version();
        let sought = self.update_held(partition, |position| {
            position.version = version;
            position.start_at(to);
        });
        sought.is_some()
    }

    /// Pauses or resumes; says whether the partition is held. Nothing under way becomes void.
    pub fn set_paused(&mut self, partition: &TopicPartition, paused: bool) -> bool {
        self.update_held(partition, |position| position.paused = paused).is_some()
    }

    /// The partition is being revoked: no more of it is fetched or handed over, but it is held until it is removed.
    pub fn hold_back(&mut self, partition: &TopicPartition) {
        self.update_held(partition, |position| position.held_back = true);
    }

    /// Takes over what metadata says of the leader: node and epoch. Another one is asked whether it has what was read, and
    /// which replica to read from, and does not pay for what the one before could not answer. A question about offsets that
    /// the one before was asked, and may never answer, is for the new one. Says whether it is another.
    pub fn set_leader(&mut self, partition: &TopicPartition, leader: Option<(i32, i32)>) -> bool {
        if self.get(partition).is_none_or(|position| position.leader == leader) {
            return false;
        }
        let next = self.next_version();
        let changed = self.update_held(partition, |position| {
            position.leader = leader;
            position.set_preferred(None);
            position.set_leader_only(None);
            if leader.is_some() && position.unresolved() != Some(Unresolved::Committed) {
                position.forget_failures();
            }
            if leader.is_some() && position.asking && matches!(position.unresolved(), Some(Unresolved::Timestamp(_))) {
                // Of two answers under one version the later would undo what was read since.
                position.version = next;
                position.asking = false;
            }
            position.revalidate();
        });
        changed.is_some()
    }

    /// The leader named a replica to read from, for so long.
    pub fn prefer(&mut self, partition: &TopicPartition, version: u64, node: i32, until: Instant) {
        self.update(partition, version, |position| {
            let is_other = position.leader.is_some_and(|(leader, _)| leader != node);
            position.set_preferred(is_other.then_some((node, until)));
        });
    }

    /// The replica could not be read from: back to the leader, and no other replica before `until`. Says whether it was one.
    pub fn give_up_replica(&mut self, partition: &TopicPartition, node: i32, until: Instant) -> bool {
        let preferred = self.get(partition).and_then(Position::preferred);
        if preferred.is_none_or(|(replica, _)| replica != node) {
            return false;
        }
        let given_up = self.update_held(partition, |position| {
            position.set_preferred(None);
            position.set_leader_only(Some(until));
        });
        given_up.is_some()
    }

    /// Ends what was preferred for long enough: the leader is asked anew. Returns whether there was any.
    pub fn expire_replicas(&mut self, now: Instant) -> bool {
        self.held.take_expired(now)
    }

    /// When [`Self::expire_replicas`] will have something to end.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.held.next_expiry()
    }

    /// Questions to put now, marked as asked until [`Self::handle_offset`], [`Self::handle_committed`] or
    /// [`Self::ask_again`].
    pub fn questions(&mut self, now: Instant) -> Vec<Question> {
        let due = self.held.asking().filter(|(_, _, position)| position.not_before().is_none_or(|at| at <= now));
        let due = due.filter_map(|(slot, partition, position)| {
            let unresolved = position.question()?;
            Some((slot, Question { partition: partition.clone(), version: position.version, unresolved }))
        });
        let due: Vec<(Slot, Question)> = due.collect();
        for (slot, _) in &due {
            self.held.update(*slot, |position| position.asking = true);
        }
        let mut questions: Vec<Question> = due.into_iter().map(|(_, question)| question).collect();
        questions.sort_by(|one, other| one.partition.cmp(&other.partition));
        questions
    }

    /// When [`Self::questions`] will have more by time alone.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.held.asking().filter_map(|(_, _, position)| position.not_before()).min()
    }

    /// No answer: ask again, not before `at` says, which is told how often in a row there had been none before.
    pub fn ask_again(&mut self, question: &Question, at: impl FnOnce(u32) -> Instant) {
        self.update(&question.partition, question.version, |position| {
            if !position.awaits(question.unresolved) {
                return;
            }
            position.asking = false;
            position.set_rare(|rare| {
                rare.not_before = Some(at(rare.failures));
                rare.failures = rare.failures.saturating_add(1);
            });
        });
    }

    /// The group's committed offset, or that there is none; then the policy decides. `wall` is milliseconds since 1970.
    pub fn handle_committed(
        &mut self,
        wall: i64,
        partition: &TopicPartition,
        version: u64,
        committed: Option<EpochOffset>,
    ) -> Result<(), NoOffset> {
        match committed {
            Some(offset) => {
                self.handle_offset(partition, version, offset);
                Ok(())
            }
            None => self.reset(wall, partition, version, "nothing was committed"),
        }
    }

    /// The offset a question was answered with.
    pub fn handle_offset(&mut self, partition: &TopicPartition, version: u64, offset: EpochOffset) {
        self.update(partition, version, |position| position.settle_at(offset));
    }

    /// The broker does not have the fetch offset: begin where the policy says.
    pub fn handle_out_of_range(&mut self, wall: i64, partition: &TopicPartition, version: u64) -> Result<(), NoOffset> {
        self.reset(wall, partition, version, "the position is out of range")
    }

    fn reset(
        &mut self,
        wall: i64,
        partition: &TopicPartition,
        version: u64,
        reason: &'static str,
    ) -> Result<(), NoOffset> {
        let policy = self.reset;
        let next = self.next_version();
        let timestamp = match policy {
            OffsetReset::Earliest => Some(EARLIEST),
            OffsetReset::Latest => Some(LATEST),
            OffsetReset::ByDuration(age) => {
                Some(wall.saturating_sub(age.as_millis().min(i64::MAX as u128) as i64).max(0))
            }
            OffsetReset::None => None,
        };
        let reset = self.update(partition, version, |position| {
            position.version = next;
            match timestamp {
                Some(timestamp) => position.ask(Unresolved::Timestamp(timestamp)),
                None => position.await_seek(),
            }
        });
        match (reset, timestamp) {
            (Some(()), None) => Err(NoOffset { partition: partition.clone(), reason }),
            _ => Ok(()),
        }
    }

    /// The broker's answer reached up to `next`: fetch from there.
    pub fn fetched(&mut self, partition: &TopicPartition, version: u64, next: EpochOffset) {
        self.update(partition, version, |position| position.fetch_offset = next);
    }

    /// The partition, for what decides nothing about fetches.
    fn aside(&mut self, partition: &TopicPartition, version: u64) -> Option<&mut Position> {
        self.held.get_mut(partition).filter(|position| position.version == version)
    }

    /// What the broker said of the log: the offset behind the last committed record, and that of the first record of an
    /// open transaction.
    pub fn observe(&mut self, partition: &TopicPartition, version: u64, high_watermark: i64, stable: i64) {
        if let Some(position) = self.aside(partition, version) {
            let known = |offset: i64, before| if offset >= 0 { offset } else { before };
            position.high_watermark = known(high_watermark, position.high_watermark);
            position.last_stable_offset = known(stable, position.last_stable_offset);
        }
    }

    /// Records up to `next` were handed over: the position moves there.
    pub fn handed_over(&mut self, partition: &TopicPartition, version: u64, next: EpochOffset) {
        if let Some(position) = self.aside(partition, version)
            && next.offset > position.position.offset
        {
            position.position = next;
        }
    }

    /// What was fetched ahead is no good: fetch from the position again.
    pub fn refetch(&mut self, partition: &TopicPartition, version: u64) {
        let next = self.next_version();
        self.update(partition, version, |position| {
            position.version = next;
            position.fetch_offset = position.position;
        });
    }
}

impl Position {
    fn start_at(&mut self, start: Start) {
        match start {
            Start::Offset(offset) => self.settle_at(EpochOffset::unknown(offset)),
            Start::Beginning => self.ask(Unresolved::Timestamp(EARLIEST)),
            Start::End => self.ask(Unresolved::Timestamp(LATEST)),
            Start::Timestamp(timestamp) => self.ask(Unresolved::Timestamp(timestamp.max(0))),
            Start::Committed => self.ask(Unresolved::Committed),
        }
    }

    fn settle_at(&mut self, offset: EpochOffset) {
        self.set_unresolved(None);
        self.asking = false;
        self.forget_failures();
        self.position = offset;
        self.fetch_offset = offset;
        self.revalidate();
    }

    /// Waits for a seek: asked once, and never answered.
    fn await_seek(&mut self) {
        self.set_unresolved(Some(Unresolved::Committed));
        self.asking = true;
    }

    /// What is to be asked, as soon as its time has come.
    fn question(&self) -> Option<Unresolved> {
        let unresolved = self.unresolved().or_else(|| self.doubt());
        let unresolved = unresolved.filter(|_| !self.asking && !self.held_back)?;
        // Committed offsets come from the coordinator, the others from the leader.
        (unresolved == Unresolved::Committed || self.leader.is_some()).then_some(unresolved)
    }

    fn ask(&mut self, unresolved: Unresolved) {
        self.set_unresolved(Some(unresolved));
        self.unvalidated = false;
        self.asking = false;
        self.forget_failures();
    }

    fn set_rare(&mut self, set: impl FnOnce(&mut Rare)) {
        let mut rare = self.rare.take().unwrap_or_default();
        set(&mut rare);
        self.rare = Some(rare).filter(|rare| **rare != Rare::default());
    }

    fn unresolved(&self) -> Option<Unresolved> {
        self.rare.as_ref()?.unresolved
    }

    fn set_unresolved(&mut self, unresolved: Option<Unresolved>) {
        if self.unresolved() != unresolved {
            self.set_rare(|rare| rare.unresolved = unresolved);
        }
    }

    fn not_before(&self) -> Option<Instant> {
        self.rare.as_ref()?.not_before
    }

    /// The question was answered, is another, or is put to another node.
    fn forget_failures(&mut self) {
        if self.not_before().is_some() {
            self.set_rare(|rare| (rare.not_before, rare.failures) = (None, 0));
        }
    }

    fn preferred(&self) -> Option<(i32, Instant)> {
        self.rare.as_ref()?.preferred
    }

    fn set_preferred(&mut self, preferred: Option<(i32, Instant)>) {
        if self.preferred() != preferred {
            self.set_rare(|rare| rare.preferred = preferred);
        }
    }

    fn leader_only(&self) -> Option<Instant> {
        self.rare.as_ref()?.leader_only
    }

    fn set_leader_only(&mut self, until: Option<Instant>) {
        if self.leader_only() != until {
            self.set_rare(|rare| rare.leader_only = until);
        }
    }

    /// The node to fetch from: the replica that the leader named, else the leader.
    pub fn read_from(&self) -> Option<i32> {
        let leader = self.leader.map(|(leader, _)| leader)?;
        Some(self.preferred().map_or(leader, |(replica, _)| replica))
    }

    /// Whether it may be fetched: wanted, resolved, and not in doubt since the leader changed.
    pub fn is_fetchable(&self) -> bool {
        self.is_wanted() && self.unresolved().is_none() && !self.unvalidated
    }

    /// Whether the leader may name a replica to read from.
    pub fn may_follow(&self, now: Instant) -> bool {
        self.leader_only().is_none_or(|until| until <= now)
    }

    /// Whether its records may be fetched and handed over: neither paused nor being revoked.
    pub fn is_wanted(&self) -> bool {
        !self.paused && !self.held_back
    }

    /// Whether it is being revoked.
    pub fn is_held_back(&self) -> bool {
        self.held_back
    }

    /// Offset of the next record to hand over, once it is known.
    pub fn position(&self) -> Option<i64> {
        self.unresolved().is_none().then_some(self.position.offset)
    }

    /// Offset to fetch from next, once it is known, and the epoch of what was fetched last.
    pub fn fetch_offset(&self) -> Option<EpochOffset> {
        self.unresolved().is_none().then_some(self.fetch_offset)
    }

    /// Records between the position and the end that a reader sees; with `read_committed`, the last stable offset.
    pub fn lag(&self, read_committed: bool) -> Option<i64> {
        let end = if read_committed { self.last_stable_offset } else { self.high_watermark };
        (end >= 0).then_some((end - self.position()?).max(0))
    }
}

#[cfg(test)]
mod tests;
