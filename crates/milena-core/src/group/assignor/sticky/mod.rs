//! The sticky assignors: balance first, then as few moves as can be. Two algorithms, as in Kafka's Java client: a
//! direct one when all members subscribe to the same topics, else a search by single moves.
//!
//! Partitions are pairs of small numbers here and members are indexes; names come back at the end.

mod constrained;
mod general;
mod movements;
mod racks;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use self::racks::Racks;
use super::{GroupMember, TopicRacks};
use crate::{consumer::TopicPartition, group::java_order};

/// A partition: the rank of its topic by name, and its index. Orders as Java's topic-then-partition comparators do.
type Partition = (u32, u32);

const NO_GENERATION: i32 = -1;

#[derive(Clone, Copy)]
struct Topic<'a> {
    name: &'a Arc<str>,
    /// Racks of each partition's replicas.
    racks: &'a [Vec<Arc<str>>],
}

/// What both algorithms work on.
struct Problem<'a> {
    /// By name.
    topics: Vec<Topic<'a>>,
    members: &'a [GroupMember],
    /// Members in the order that Java's map of subscriptions yields them.
    order: Vec<usize>,
    /// Rank of each member by its id.
    rank: Vec<usize>,
    /// Partitions each member holds by right, after conflicting claims are settled.
    owned: Vec<Vec<Partition>>,
    /// Claimed by two members of the same generation: neither keeps them.
    disputed: BTreeSet<Partition>,
    max_generation: i32,
    racks: Racks,
}

/// The outcome, with what a cooperative leader has to hold back.
pub(super) struct Sticky {
    pub(super) partitions: Vec<Vec<TopicPartition>>,
    /// New owners of partitions that somebody else may still hold; `None` when the algorithm doesn't track them.
    moving: Option<Vec<(TopicPartition, usize)>>,
}

pub(super) fn assign(topics: &TopicRacks, members: &[GroupMember]) -> Sticky {
    let problem = Problem::new(topics, members);
    if problem.subscriptions_are_equal() {
        let solution = constrained::solve(&problem);
        let moving = solution.moving.iter().map(|(&tp, &member)| (problem.name(tp), member)).collect();
        Sticky { partitions: problem.names(&solution.assignment), moving: Some(moving) }
    } else {
        Sticky { partitions: problem.names(&general::solve(&problem)), moving: None }
    }
}

/// As [`assign`], without the partitions that another member has to give up first (KIP-429): they follow in the
/// rebalance that their revocation brings about.
pub(super) fn assign_cooperatively(topics: &TopicRacks, members: &[GroupMember]) -> Vec<Vec<TopicPartition>> {
    let Sticky { mut partitions, moving } = assign(topics, members);
    match moving {
        Some(moving) => {
            for (tp, member) in moving {
                partitions[member].retain(|held| *held != tp);
            }
        }
        None => {
            let mut revoked = BTreeSet::new();
            for (member, assigned) in members.iter().zip(&partitions) {
                let assigned: BTreeSet<&TopicPartition> = assigned.iter().collect();
                revoked.extend(member.owned.iter().filter(|tp| !assigned.contains(tp)));
            }
            for (member, assigned) in members.iter().zip(&mut partitions) {
                let owned: BTreeSet<&TopicPartition> = member.owned.iter().collect();
                assigned.retain(|tp| owned.contains(tp) || !revoked.contains(tp));
            }
        }
    }
    partitions
}

impl<'a> Problem<'a> {
    fn new(topics: &'a TopicRacks, members: &'a [GroupMember]) -> Self {
        let topics: Vec<Topic<'_>> = topics.iter().map(|(name, racks)| Topic { name, racks }).collect();
        let order = java_order::iteration_order(members.iter().map(|member| &*member.member_id));
        let mut by_id: Vec<usize> = (0..members.len()).collect();
        by_id.sort_by(|&left, &right| members[left].member_id.cmp(&members[right].member_id));
        let mut rank = vec![0; members.len()];
        for (position, &member) in by_id.iter().enumerate() {
            rank[member] = position;
        }
        let racks = Racks::new(&topics, members);
        let mut problem = Self {
            topics,
            members,
            order,
            rank,
            owned: vec![Vec::new(); members.len()],
            disputed: BTreeSet::new(),
            max_generation: NO_GENERATION,
            racks,
        };
        problem.settle_claims();
        problem
    }

    /// The member of the higher generation keeps what two claim; with equal generations neither does, since a member
    /// that missed a rebalance can't be told from one that did not (KIP-792).
    fn settle_claims(&mut self) {
        let mut owner: HashMap<Partition, usize> = HashMap::new();
        for member in self.order.clone() {
            let generation = self.generation(member);
            self.max_generation = self.max_generation.max(generation);
            for claim in &self.members[member].owned {
                let Some(tp) = self.locate(claim) else { continue };
                match owner.get(&tp).copied() {
                    None => {
                        self.owned[member].push(tp);
                        owner.insert(tp, member);
                    }
                    Some(other) if self.generation(other) <= generation => {
                        self.owned[other].retain(|held| *held != tp);
                        owner.insert(tp, member);
                        if self.generation(other) == generation {
                            self.disputed.insert(tp);
                        } else {
                            self.owned[member].push(tp);
                        }
                    }
                    Some(_) => {}
                }
            }
        }
    }

    fn generation(&self, member: usize) -> i32 {
        self.members[member].generation.unwrap_or(NO_GENERATION)
    }

    fn subscriptions_are_equal(&self) -> bool {
        let topics = |member: &GroupMember| member.topics.iter().cloned().collect::<BTreeSet<_>>();
        let first = topics(&self.members[0]);
        self.members.iter().all(|member| member.topics.len() == first.len() && topics(member) == first)
    }

    fn topic_rank(&self, topic: &str) -> Option<u32> {
        self.topics.binary_search_by(|known| (**known.name).cmp(topic)).ok().map(|rank| rank as u32)
    }

    /// A claim by name, as a pair; none when its topic is not (or no longer) subscribed to or there.
    fn locate(&self, claim: &TopicPartition) -> Option<Partition> {
        let topic = self.topic_rank(&claim.topic)?;
        u32::try_from(claim.partition).ok().map(|partition| (topic, partition))
    }

    fn exists(&self, (topic, partition): Partition) -> bool {
        (partition as usize) < self.partition_count(topic)
    }

    fn partition_count(&self, topic: u32) -> usize {
        self.topics[topic as usize].racks.len()
    }

    fn total_partitions(&self) -> usize {
        self.topics.iter().map(|topic| topic.racks.len()).sum()
    }

    fn partitions_of(&self, topic: u32) -> impl Iterator<Item = Partition> + use<> {
        (0..self.partition_count(topic) as u32).map(move |partition| (topic, partition))
    }

    fn name(&self, (topic, partition): Partition) -> TopicPartition {
        TopicPartition { topic: Arc::clone(self.topics[topic as usize].name), partition: partition as i32 }
    }

    fn names(&self, assignment: &[Vec<Partition>]) -> Vec<Vec<TopicPartition>> {
        assignment.iter().map(|partitions| partitions.iter().map(|&tp| self.name(tp)).collect()).collect()
    }
}

/// What the constrained algorithm finds.
struct Solution {
    assignment: Vec<Vec<Partition>>,
    moving: BTreeMap<Partition, usize>,
}
