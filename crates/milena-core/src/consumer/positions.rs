//! Where each assigned partition is read from: position, fetch offset, pauses, seeks and resets. Holds no records and no
//! clock; knows nothing of sessions or buffers.
//!
//! Two offsets per partition: the *position* is the next record to hand over and moves only then; the *fetch offset* is
//! the next to ask the broker for and runs ahead of it. Every change of course bumps the partition's `version`, and an
//! answer that carries an older one is void.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{AssignmentEpoch, TopicPartition};

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
    /// Offset behind the last committed record, `None` until there is one.
    pub high_watermark: Option<i64>,
    /// Offset of the first record of an open transaction, or the high watermark.
    pub last_stable_offset: Option<i64>,
    /// Offset of the oldest record.
    pub log_start_offset: Option<i64>,
    unresolved: Option<Unresolved>,
    position: i64,
    fetch_offset: i64,
    not_before: Option<Instant>,
    asking: bool,
    held_back: bool,
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
    partitions: BTreeMap<TopicPartition, Position>,
    reset: OffsetReset,
    versions: u64,
}

impl Positions {
    /// No partitions yet.
    pub fn new(reset: OffsetReset) -> Self {
        Self { partitions: BTreeMap::new(), reset, versions: 0 }
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
            high_watermark: None,
            last_stable_offset: None,
            log_start_offset: None,
            unresolved: None,
            position: -1,
            fetch_offset: -1,
            not_before: None,
            asking: false,
            held_back: false,
        };
        position.start_at(start);
        self.partitions.insert(partition, position);
    }

    /// Stops holding it; what is under way for it is void.
    pub fn remove(&mut self, partition: &TopicPartition) -> Option<Position> {
        self.partitions.remove(partition)
    }

    /// The partition, if held.
    pub fn get(&self, partition: &TopicPartition) -> Option<&Position> {
        self.partitions.get(partition)
    }

    /// The partition, if held and nothing changed its course since `version`.
    pub fn current(&self, partition: &TopicPartition, version: u64) -> Option<&Position> {
        self.partitions.get(partition).filter(|position| position.version == version)
    }

    fn current_mut(&mut self, partition: &TopicPartition, version: u64) -> Option<&mut Position> {
        self.partitions.get_mut(partition).filter(|position| position.version == version)
    }

    /// All partitions held, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &Position)> {
        self.partitions.iter()
    }

    /// Whether the partition is held in the very spell `epoch`.
    pub fn holds(&self, partition: &TopicPartition, epoch: AssignmentEpoch) -> bool {
        self.partitions.get(partition).is_some_and(|position| position.epoch == epoch)
    }

    /// Changes the course of a held partition; says whether it is held.
    pub fn seek(&mut self, partition: &TopicPartition, to: Start) -> bool {
        let version = self.next_version();
        let Some(position) = self.partitions.get_mut(partition) else { return false };
        position.version = version;
        position.start_at(to);
        true
    }

    /// Pauses or resumes; says whether the partition is held. Nothing under way becomes void.
    pub fn set_paused(&mut self, partition: &TopicPartition, paused: bool) -> bool {
        let Some(position) = self.partitions.get_mut(partition) else { return false };
        position.paused = paused;
        true
    }

    /// The partition is being revoked: no more of it is fetched or handed over, but it is held until it is removed.
    pub fn hold_back(&mut self, partition: &TopicPartition) {
        if let Some(position) = self.partitions.get_mut(partition) {
            position.held_back = true;
        }
    }

    /// Takes over what metadata says of the leader: node and epoch.
    pub fn set_leader(&mut self, partition: &TopicPartition, leader: Option<(i32, i32)>) {
        if let Some(position) = self.partitions.get_mut(partition) {
            position.leader = leader;
        }
    }

    /// Partitions to be fetched from `node`: held, resolved, not paused.
    pub fn fetchable(&self, node: i32) -> impl Iterator<Item = (&TopicPartition, &Position)> {
        self.partitions.iter().filter(move |(_, position)| {
            position.is_wanted()
                && position.unresolved.is_none()
                && position.leader.is_some_and(|(leader, _)| leader == node)
        })
    }

    /// Questions to put now, marked as asked until [`Self::handle_offset`], [`Self::handle_committed`] or
    /// [`Self::ask_again`].
    pub fn questions(&mut self, now: Instant) -> Vec<Question> {
        let mut questions = Vec::new();
        for (partition, position) in &mut self.partitions {
            let Some(unresolved) = position.question() else { continue };
            if position.not_before.is_some_and(|at| now < at) {
                continue;
            }
            position.asking = true;
            questions.push(Question { partition: partition.clone(), version: position.version, unresolved });
        }
        questions
    }

    /// When [`Self::questions`] will have more by time alone.
    pub fn next_timeout(&self) -> Option<Instant> {
        let waiting = self.partitions.values().filter(|position| position.question().is_some());
        waiting.filter_map(|position| position.not_before).min()
    }

    /// No answer: ask again, not before `at`.
    pub fn ask_again(&mut self, partition: &TopicPartition, version: u64, at: Instant) {
        if let Some(position) = self.current_mut(partition, version) {
            position.asking = false;
            position.not_before = Some(at);
        }
    }

    /// The group's committed offset, or that there is none; then the policy decides. `wall` is milliseconds since 1970.
    pub fn handle_committed(
        &mut self,
        wall: i64,
        partition: &TopicPartition,
        version: u64,
        committed: Option<i64>,
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
    pub fn handle_offset(&mut self, partition: &TopicPartition, version: u64, offset: i64) {
        if let Some(position) = self.current_mut(partition, version) {
            position.start_at(Start::Offset(offset));
        }
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
        let Some(position) = self.current_mut(partition, version) else { return Ok(()) };
        position.version = next;
        let timestamp = match policy {
            OffsetReset::Earliest => EARLIEST,
            OffsetReset::Latest => LATEST,
            OffsetReset::ByDuration(age) => wall.saturating_sub(age.as_millis().min(i64::MAX as u128) as i64).max(0),
            OffsetReset::None => {
                // Waits for a seek: asked once, and never answered.
                position.unresolved = Some(Unresolved::Committed);
                position.asking = true;
                return Err(NoOffset { partition: partition.clone(), reason });
            }
        };
        position.ask(Unresolved::Timestamp(timestamp));
        Ok(())
    }

    /// The broker's answer reached up to `next`: fetch from there.
    pub fn fetched(&mut self, partition: &TopicPartition, version: u64, next: i64) {
        if let Some(position) = self.current_mut(partition, version) {
            position.fetch_offset = next;
        }
    }

    /// What the broker said of the log.
    pub fn observe(&mut self, partition: &TopicPartition, version: u64, high_watermark: i64, stable: i64, start: i64) {
        if let Some(position) = self.current_mut(partition, version) {
            position.high_watermark = Some(high_watermark).filter(|offset| *offset >= 0).or(position.high_watermark);
            position.last_stable_offset = Some(stable).filter(|offset| *offset >= 0).or(position.last_stable_offset);
            position.log_start_offset = Some(start).filter(|offset| *offset >= 0).or(position.log_start_offset);
        }
    }

    /// Records up to `next` were handed over: the position moves there.
    pub fn handed_over(&mut self, partition: &TopicPartition, version: u64, next: i64) {
        if let Some(position) = self.current_mut(partition, version) {
            position.position = position.position.max(next);
        }
    }

    /// What was fetched ahead is no good: fetch from the position again.
    pub fn refetch(&mut self, partition: &TopicPartition, version: u64) {
        let next = self.next_version();
        if let Some(position) = self.current_mut(partition, version) {
            position.version = next;
            position.fetch_offset = position.position;
        }
    }
}

impl Position {
    fn start_at(&mut self, start: Start) {
        match start {
            Start::Offset(offset) => {
                self.unresolved = None;
                self.asking = false;
                self.not_before = None;
                self.position = offset;
                self.fetch_offset = offset;
            }
            Start::Beginning => self.ask(Unresolved::Timestamp(EARLIEST)),
            Start::End => self.ask(Unresolved::Timestamp(LATEST)),
            Start::Timestamp(timestamp) => self.ask(Unresolved::Timestamp(timestamp.max(0))),
            Start::Committed => self.ask(Unresolved::Committed),
        }
    }

    /// What is to be asked, as soon as its time has come.
    fn question(&self) -> Option<Unresolved> {
        let unresolved = self.unresolved.filter(|_| !self.asking && !self.held_back)?;
        // Committed offsets come from the coordinator, the others from the leader.
        (unresolved == Unresolved::Committed || self.leader.is_some()).then_some(unresolved)
    }

    fn ask(&mut self, unresolved: Unresolved) {
        self.unresolved = Some(unresolved);
        self.asking = false;
        self.not_before = None;
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
        self.unresolved.is_none().then_some(self.position)
    }

    /// Offset to fetch from next, once it is known.
    pub fn fetch_offset(&self) -> Option<i64> {
        self.unresolved.is_none().then_some(self.fetch_offset)
    }

    /// Records between the position and the end that a reader sees; with `read_committed`, the last stable offset.
    pub fn lag(&self, read_committed: bool) -> Option<i64> {
        let end = if read_committed { self.last_stable_offset } else { self.high_watermark }?;
        Some((end - self.position()?).max(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tp() -> TopicPartition {
        TopicPartition::new("orders", 0)
    }

    fn assigned(reset: OffsetReset, start: Start) -> Positions {
        let mut positions = Positions::new(reset);
        positions.assign(tp(), AssignmentEpoch(1), start);
        positions.set_leader(&tp(), Some((1, 5)));
        positions
    }

    fn version(positions: &Positions) -> u64 {
        positions.get(&tp()).unwrap().version
    }

    #[test]
    fn position_moves_when_records_are_handed_over_and_not_when_fetched() {
        let mut positions = assigned(OffsetReset::Latest, Start::Offset(10));
        let version = version(&positions);
        positions.fetched(&tp(), version, 30);
        assert_eq!(positions.get(&tp()).unwrap().position(), Some(10));
        positions.handed_over(&tp(), version, 20);
        let position = positions.get(&tp()).unwrap();
        assert_eq!((position.position(), position.fetch_offset()), (Some(20), Some(30)));
        positions.refetch(&tp(), version);
        assert_eq!(positions.get(&tp()).unwrap().fetch_offset(), Some(20));
    }

    #[test]
    fn seek_makes_answers_under_way_void() {
        let mut positions = assigned(OffsetReset::Latest, Start::Offset(10));
        let before = version(&positions);
        assert!(positions.seek(&tp(), Start::Offset(3)));
        positions.fetched(&tp(), before, 99);
        positions.handed_over(&tp(), before, 99);
        let position = positions.get(&tp()).unwrap();
        assert_eq!((position.position(), position.fetch_offset()), (Some(3), Some(3)));
        assert!(!positions.seek(&TopicPartition::new("other", 0), Start::End));
    }

    #[test]
    fn each_reset_policy_asks_for_its_time() {
        let now = Instant::now();
        for (policy, timestamp) in [
            (OffsetReset::Earliest, EARLIEST),
            (OffsetReset::Latest, LATEST),
            (OffsetReset::ByDuration(Duration::from_secs(60)), 40_000),
        ] {
            let mut positions = assigned(policy, Start::Committed);
            let question = positions.questions(now).pop().unwrap();
            assert_eq!(question.unresolved, Unresolved::Committed);
            assert!(positions.questions(now).is_empty(), "asked once");
            positions.handle_committed(100_000, &tp(), question.version, None).unwrap();
            assert_eq!(positions.questions(now)[0].unresolved, Unresolved::Timestamp(timestamp));
        }
    }

    #[test]
    fn without_a_policy_the_application_is_told_and_may_seek() {
        let now = Instant::now();
        let mut positions = assigned(OffsetReset::None, Start::Offset(10));
        let version = version(&positions);
        assert!(positions.handle_out_of_range(0, &tp(), version).is_err());
        assert!(positions.fetchable(1).next().is_none() && positions.questions(now).is_empty());
        positions.seek(&tp(), Start::Beginning);
        assert_eq!(positions.questions(now).len(), 1);
    }

    #[test]
    fn committed_offset_wins_over_the_policy_and_a_retry_waits() {
        let now = Instant::now();
        let mut positions = assigned(OffsetReset::Latest, Start::Committed);
        let question = positions.questions(now).pop().unwrap();
        let later = now + Duration::from_secs(1);
        positions.ask_again(&tp(), question.version, later);
        assert!(positions.questions(now).is_empty());
        assert_eq!(positions.next_timeout(), Some(later));
        let question = positions.questions(later).pop().unwrap();
        positions.handle_committed(0, &tp(), question.version, Some(42)).unwrap();
        assert_eq!(positions.get(&tp()).unwrap().position(), Some(42));
    }

    #[test]
    fn question_that_cannot_be_put_wakes_nobody() {
        let now = Instant::now();
        let mut positions = assigned(OffsetReset::Latest, Start::End);
        let question = positions.questions(now).pop().unwrap();
        positions.ask_again(&tp(), question.version, now);
        positions.set_leader(&tp(), None);
        assert_eq!((positions.questions(now), positions.next_timeout()), (vec![], None));
        positions.set_leader(&tp(), Some((1, 6)));
        assert_eq!(positions.next_timeout(), Some(now));
        positions.hold_back(&tp());
        assert_eq!((positions.questions(now), positions.next_timeout()), (vec![], None));
    }

    #[test]
    fn fetchable_are_those_led_there_resolved_and_not_paused() {
        let mut positions = assigned(OffsetReset::Latest, Start::Offset(0));
        assert_eq!(positions.fetchable(1).count(), 1);
        assert_eq!(positions.fetchable(2).count(), 0);
        positions.set_paused(&tp(), true);
        assert_eq!(positions.fetchable(1).count(), 0);
        positions.set_paused(&tp(), false);
        positions.hold_back(&tp());
        assert_eq!(positions.fetchable(1).count(), 0);
        assert!(positions.holds(&tp(), AssignmentEpoch(1)), "held for its last commits");
        let mut positions = assigned(OffsetReset::Latest, Start::Offset(0));
        positions.seek(&tp(), Start::End);
        assert_eq!(positions.fetchable(1).count(), 0);
    }

    #[test]
    fn lag_ends_at_the_last_stable_offset_for_committed_readers() {
        let mut positions = assigned(OffsetReset::Latest, Start::Offset(10));
        let version = version(&positions);
        assert_eq!(positions.get(&tp()).unwrap().lag(false), None);
        positions.observe(&tp(), version, 100, 60, 0);
        let position = positions.get(&tp()).unwrap();
        assert_eq!((position.lag(false), position.lag(true)), (Some(90), Some(50)));
    }

    #[test]
    fn an_epoch_holds_only_its_own_spell() {
        let mut positions = assigned(OffsetReset::Latest, Start::Offset(10));
        assert!(positions.holds(&tp(), AssignmentEpoch(1)));
        positions.remove(&tp());
        positions.assign(tp(), AssignmentEpoch(2), Start::Offset(10));
        assert!(!positions.holds(&tp(), AssignmentEpoch(1)) && positions.holds(&tp(), AssignmentEpoch(2)));
    }
}
