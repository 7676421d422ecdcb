//! Held partitions, and beside them what follows from their state: who reads what from which node, which of them have
//! changed since their node's fetch session was told (KIP-227), which have a question, whose time runs out next. Kept
//! with each change, so that no turn of a consumer looks at partitions that are idle.

mod partitions;
mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Instant;

use milena_protocol::Uuid;

use self::partitions::Partitions;
use self::slots::Slots;
use super::{Position, Positions};
use crate::consumer::TopicPartition;

/// A held partition's number, good until the partition is removed.
pub type Slot = u32;

#[derive(Clone, Debug)]
pub(super) struct Held {
    partition: TopicPartition,
    pub(super) position: Position,
}

/// As it was last named in the session of the node that it is read from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    version: NonZeroU64,
    topic_id: Uuid,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    topics: BTreeMap<Arc<str>, Partitions>,
    slots: Slots,
    nodes: BTreeMap<i32, Node>,
    asking: BTreeSet<Slot>,
    expiries: BTreeSet<(Instant, Slot)>,
    stays: BTreeSet<(Instant, Slot)>,
}

/// What is read from one node.
#[derive(Debug, Default)]
struct Node {
    read: usize,
    /// Of them, those that another node leads.
    followed: usize,
    fetchable: usize,
    members: usize,
    /// Members of topics without an id.
    nameless: usize,
    /// May be fetched or are in the session, and the session may say something else of them.
    changed: BTreeSet<Slot>,
    /// The session still has them.
    gone: BTreeMap<TopicPartition, Uuid>,
    /// A fetch of the session is under way.
    is_parked: bool,
}

/// What the index has of a partition.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Facts {
    node: Option<i32>,
    is_followed: bool,
    is_fetchable: bool,
    has_question: bool,
    expiry: Option<Instant>,
    stays: Option<Instant>,
}

impl Facts {
    const NONE: Self =
        Self { node: None, is_followed: false, is_fetchable: false, has_question: false, expiry: None, stays: None };

    fn of(position: &Position) -> Self {
        let node = position.read_from();
        Self {
            node,
            is_followed: node != position.leader.map(|(leader, _)| leader),
            is_fetchable: node.is_some() && position.is_fetchable(),
            has_question: position.question().is_some(),
            expiry: position.preferred().map(|(_, until)| until),
            stays: position.leader_only(),
        }
    }
}

/// Takes an entry out of one place of a set and enters it at another.
fn move_entry(set: &mut BTreeSet<(Instant, Slot)>, slot: Slot, from: Option<Instant>, to: Option<Instant>) {
    if from != to {
        from.map(|at| set.remove(&(at, slot)));
        to.map(|at| set.insert((at, slot)));
    }
}

impl Index {
    pub(super) fn insert(&mut self, mut partition: TopicPartition, position: Position) {
        self.remove(&partition);
        // One copy of the name, however many partitions there are.
        if let Some((topic, _)) = self.topics.get_key_value(&partition.topic) {
            partition.topic = Arc::clone(topic);
        }
        let (topic, index) = (Arc::clone(&partition.topic), partition.partition);
        let slot = self.slots.put(Held { partition, position });
        self.topics.entry(topic).or_default().insert(index, slot);
        self.follow(slot, Facts::NONE);
    }

    pub(super) fn remove(&mut self, partition: &TopicPartition) -> Option<Position> {
        let slot = self.slot(partition)?;
        self.unlist(slot, Facts::of(&self.at(slot)?.position), Facts::NONE);
        let held = self.slots.take(slot)?;
        if let Some(partitions) = self.topics.get_mut(&partition.topic) {
            partitions.remove(partition.partition);
            if partitions.is_empty() {
                self.topics.remove(&partition.topic);
            }
        }
        Some(held.position)
    }

    pub(super) fn slot(&self, partition: &TopicPartition) -> Option<Slot> {
        self.topics.get(&partition.topic)?.get(partition.partition)
    }

    fn at(&self, slot: Slot) -> Option<&Held> {
        self.slots.get(slot)
    }

    pub(super) fn get(&self, partition: &TopicPartition) -> Option<&Position> {
        Some(&self.at(self.slot(partition)?)?.position)
    }

    /// For what the index does not know of.
    pub(super) fn get_mut(&mut self, partition: &TopicPartition) -> Option<&mut Position> {
        let slot = self.slot(partition)?;
        Some(&mut self.slots.get_mut(slot)?.position)
    }

    /// Changes a partition, and the index with it.
    pub(super) fn update<R>(&mut self, slot: Slot, change: impl FnOnce(&mut Position) -> R) -> Option<R> {
        let held = self.slots.get_mut(slot)?;
        let before = Facts::of(&held.position);
        let result = change(&mut held.position);
        self.follow(slot, before);
        Some(result)
    }

    fn follow(&mut self, slot: Slot, before: Facts) {
        let Some(held) = self.at(slot) else { return };
        let now = Facts::of(&held.position);
        self.unlist(slot, before, now);
        let is_member = self.at(slot).is_some_and(|held| held.position.member.is_some());
        if let Some(node) = now.node {
            let node = self.nodes.entry(node).or_default();
            if before.node != now.node {
                node.read += 1;
                node.followed += usize::from(now.is_followed);
                node.fetchable += usize::from(now.is_fetchable);
            } else {
                node.followed = node.followed + usize::from(now.is_followed) - usize::from(before.is_followed);
                node.fetchable = node.fetchable + usize::from(now.is_fetchable) - usize::from(before.is_fetchable);
            }
            if now.is_fetchable || is_member {
                node.changed.insert(slot);
            }
        }
        if now.has_question {
            self.asking.insert(slot);
        }
    }

    /// Takes out of the index what is no longer so.
    fn unlist(&mut self, slot: Slot, before: Facts, now: Facts) {
        move_entry(&mut self.expiries, slot, before.expiry, now.expiry);
        move_entry(&mut self.stays, slot, before.stays, now.stays);
        if before.has_question && !now.has_question {
            self.asking.remove(&slot);
        }
        if let Some(node) = before.node.filter(|_| before.node != now.node) {
            self.leave(slot, node);
            if let Some(node) = self.nodes.get_mut(&node) {
                node.read -= 1;
                node.followed -= usize::from(before.is_followed);
                node.fetchable -= usize::from(before.is_fetchable);
                node.changed.remove(&slot);
            }
        }
    }

    /// The session of `node` is to forget the partition.
    fn leave(&mut self, slot: Slot, node: i32) {
        let Some(held) = self.slots.get_mut(slot) else { return };
        let Some(node) = self.nodes.get_mut(&node) else { return };
        if let Some(member) = held.position.member.take() {
            node.members -= 1;
            node.nameless -= usize::from(member.topic_id.is_zero());
            node.gone.insert(held.partition.clone(), member.topic_id);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &Position)> {
        let slots = self.topics.values().flat_map(Partitions::slots);
        slots.filter_map(|slot| self.at(slot)).map(|held| (&held.partition, &held.position))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Partitions with a question to put.
    pub(super) fn asking(&self) -> impl Iterator<Item = (Slot, &TopicPartition, &Position)> {
        self.asking.iter().filter_map(|slot| self.at(*slot).map(|held| (*slot, &held.partition, &held.position)))
    }

    /// Replicas that were read from for long enough, or that were given up long enough ago.
    pub(super) fn take_expired(&mut self, now: Instant) -> bool {
        let mut expired = false;
        while let Some((_, slot)) = self.expiries.first().copied().filter(|(until, _)| *until <= now) {
            expired = true;
            self.update(slot, |position| position.set_preferred(None));
        }
        while let Some((_, slot)) = self.stays.first().copied().filter(|(until, _)| *until <= now) {
            self.update(slot, |position| position.set_leader_only(None));
        }
        expired
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.expiries.first().map(|(until, _)| *until)
    }
}

/// What fetches and their sessions are made of.
impl Positions {
    /// Nodes that partitions are read from.
    pub fn nodes(&self) -> impl Iterator<Item = i32> + '_ {
        self.held.nodes.iter().filter(|(_, node)| node.read > 0).map(|(node, _)| *node)
    }

    fn node(&self, node: i32) -> Option<&Node> {
        self.held.nodes.get(&node)
    }

    /// Whether anything is read from `node`.
    pub fn is_read(&self, node: i32) -> bool {
        self.node(node).is_some_and(|node| node.read > 0)
    }

    /// Whether `node` is read from as a replica (KIP-392).
    pub fn is_followed(&self, node: i32) -> bool {
        self.node(node).is_some_and(|node| node.followed > 0)
    }

    /// Partitions to be fetched from `node`: held, resolved, not paused, and not in doubt since the leader changed.
    pub fn fetchable(&self, node: i32) -> usize {
        self.node(node).map_or(0, |node| node.fetchable)
    }

    /// Partitions in the session of `node`.
    pub fn members(&self, node: i32) -> usize {
        self.node(node).map_or(0, |node| node.members)
    }

    /// Whether each partition in the session of `node` is of a topic whose id is known.
    pub fn have_ids(&self, node: i32) -> bool {
        self.node(node).is_none_or(|node| node.nameless == 0)
    }

    /// Partitions of which the session of `node` may say something else than it should, or that it lacks. Idle ones are
    /// not among them.
    pub fn changed(&self, node: i32) -> impl Iterator<Item = (Slot, &TopicPartition, &Position)> {
        let changed = self.node(node).into_iter().flat_map(|node| &node.changed);
        changed.filter_map(|slot| self.held.at(*slot).map(|held| (*slot, &held.partition, &held.position)))
    }

    /// Whether there are any [`Self::changed`].
    pub fn has_changed(&self, node: i32) -> bool {
        self.node(node).is_some_and(|node| !node.changed.is_empty())
    }

    /// Something beside its position decides anew whether the partition may be fetched.
    pub fn mark(&mut self, partition: &TopicPartition) {
        if let Some(slot) = self.held.slot(partition) {
            self.held.update(slot, |_| ());
        }
    }

    /// What metadata says of the topic's id: under another, the session has to be told.
    pub fn set_topic_id(&mut self, partition: &TopicPartition, topic_id: Uuid) {
        let Some(slot) = self.held.slot(partition) else { return };
        let member = self.held.at(slot).and_then(|held| held.position.member);
        if member.is_some_and(|member| member.topic_id != topic_id) {
            self.held.update(slot, |_| ());
        }
    }

    /// The session that is about to be told has the partition as it is now.
    pub fn enter_session(&mut self, slot: Slot, topic_id: Uuid) {
        let Some(held) = self.held.slots.get_mut(slot) else { return };
        let (Some(read_from), Some(version)) = (held.position.read_from(), NonZeroU64::new(held.position.version))
        else {
            return;
        };
        let Some(node) = self.held.nodes.get_mut(&read_from) else { return };
        let before = held.position.member.replace(Member { version, topic_id });
        node.changed.remove(&slot);
        node.members += usize::from(before.is_none());
        node.nameless += usize::from(topic_id.is_zero());
        if let Some(before) = before {
            node.nameless -= usize::from(before.topic_id.is_zero());
            // A topic created anew under its name: the broker knows the old one by its id.
            if before.topic_id != topic_id {
                node.gone.insert(held.partition.clone(), before.topic_id);
            }
        }
        // Brokers forget last: what came back must not be among it.
        if node.gone.get(&held.partition) == Some(&topic_id) {
            node.gone.remove(&held.partition);
        }
    }

    /// The session that is about to be told has the partition no longer. It stays [`Self::changed`] while it is fetchable.
    pub fn leave_session(&mut self, slot: Slot) {
        let Some(held) = self.held.at(slot) else { return };
        let (Some(node), is_fetchable) = (held.position.read_from(), held.position.is_fetchable()) else { return };
        self.held.leave(slot, node);
        if let Some(node) = self.held.nodes.get_mut(&node).filter(|_| !is_fetchable) {
            node.changed.remove(&slot);
        }
    }

    /// What the session of `node` is to forget, by the topic id it knows it under. Once.
    pub fn take_gone(&mut self, node: i32) -> Vec<(TopicPartition, Uuid)> {
        self.held.nodes.get_mut(&node).map(|node| std::mem::take(&mut node.gone)).into_iter().flatten().collect()
    }

    /// All partitions in the session of `node`, for one that is opened: the only look at those that are idle.
    pub fn session(&self, node: i32) -> impl Iterator<Item = (&TopicPartition, &Position, Uuid)> {
        self.held.iter().filter_map(move |(partition, position)| {
            let member = position.member.filter(|_| position.read_from() == Some(node))?;
            Some((partition, position, member.topic_id))
        })
    }

    /// Whether a fetch of the session of `node` is under way.
    pub fn is_parked(&self, node: i32) -> bool {
        self.node(node).is_some_and(|node| node.is_parked)
    }

    /// A fetch of the session of `node` begins or ends.
    pub fn set_parked(&mut self, node: i32, is_parked: bool) {
        if let Some(node) = self.held.nodes.get_mut(&node) {
            node.is_parked = is_parked;
        }
    }

    /// The version that the session of `node` asks for the partition by.
    pub fn asked_version(&self, node: i32, partition: &TopicPartition) -> Option<u64> {
        let position = self.get(partition).filter(|position| position.read_from() == Some(node))?;
        position.member.map(|member| member.version.get())
    }

    /// Whether the leaders of all that is fetched from `node` may name a replica to read from.
    pub fn may_follow(&self, node: i32, now: Instant) -> bool {
        let stay = self.held.stays.iter().rev().take_while(|(until, _)| now < *until);
        stay.filter_map(|(_, slot)| self.held.at(*slot)).all(|held| held.position.read_from() != Some(node))
    }

    /// Nobody fetches from `node` any more: its session is none of ours, if nothing is read there.
    pub fn drop_node(&mut self, node: i32) {
        if !self.is_read(node) {
            self.held.nodes.remove(&node);
        }
    }
}

impl Position {
    /// Whether it is in the session of its node.
    pub fn is_member(&self) -> bool {
        self.member.is_some()
    }

    /// Whether the session of its node, whose fetch is under way, asks for it as it is.
    pub fn is_in_session(&self) -> bool {
        self.member.is_some_and(|member| member.version.get() == self.version)
    }
}
