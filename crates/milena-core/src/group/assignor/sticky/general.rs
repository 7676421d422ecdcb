//! Members subscribe to different topics: keep what is valid, give the rest to whoever has least, then move single
//! partitions while that makes the whole more even.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{NO_GENERATION, Partition, Problem, movements::Movements};

pub(super) fn solve(problem: &Problem<'_>) -> Vec<Vec<Partition>> {
    let mut search = Search::new(problem);
    search.assign();
    search.assignment
}

struct Search<'a> {
    problem: &'a Problem<'a>,
    /// Subscribed members of each topic.
    consumers: Vec<Vec<usize>>,
    /// Subscribed topics of each member, as a set and as a list in the member's order.
    topics: Vec<BTreeSet<u32>>,
    assignment: Vec<Vec<Partition>>,
    owner: HashMap<Partition, usize>,
    /// Members that take part, by number of partitions and then id.
    by_load: BTreeSet<(usize, usize, usize)>,
    /// Where a partition was in an older generation, for members that come back with an outdated claim.
    previous: BTreeMap<Partition, (usize, i32)>,
    movements: Movements,
    revocation_required: bool,
}

impl<'a> Search<'a> {
    fn new(problem: &'a Problem<'a>) -> Self {
        let topics: Vec<BTreeSet<u32>> = problem
            .members
            .iter()
            .map(|member| member.topics.iter().filter_map(|topic| problem.topic_rank(topic)).collect())
            .collect();
        let consumers = (0..problem.topics.len() as u32)
            .map(|topic| problem.order.iter().copied().filter(|&member| topics[member].contains(&topic)).collect())
            .collect();
        let mut search = Self {
            problem,
            consumers,
            topics,
            assignment: problem.owned.clone(),
            owner: HashMap::new(),
            by_load: BTreeSet::new(),
            previous: BTreeMap::new(),
            movements: Movements::default(),
            revocation_required: false,
        };
        search.remember_previous();
        search
    }

    fn remember_previous(&mut self) {
        for &member in &self.problem.order {
            let generation = self.problem.generation(member);
            let outdated = match self.problem.members[member].generation {
                Some(generation) => generation < self.problem.max_generation,
                None => self.problem.max_generation > NO_GENERATION,
            };
            if !outdated {
                continue;
            }
            for tp in self.problem.members[member].owned.iter().filter_map(|claim| self.problem.locate(claim)) {
                let known = self.previous.entry(tp).or_insert((member, generation));
                if generation > known.1 {
                    *known = (member, generation);
                }
            }
        }
    }

    fn assign(&mut self) {
        let mut all = self.all_partitions();
        let kept = self.keep_owned();
        let mut unassigned: Vec<Partition> = all.iter().copied().filter(|tp| !kept.contains(tp)).collect();
        for member in 0..self.assignment.len() {
            self.by_load.insert(self.load(member));
        }
        self.balance(&mut all, &mut unassigned);
    }

    /// Topics with the fewest subscribers first, since they have the least choice.
    fn all_partitions(&self) -> Vec<Partition> {
        let mut topics: Vec<u32> = (0..self.problem.topics.len() as u32).collect();
        topics.sort_by_key(|&topic| (self.consumers[topic as usize].len(), topic));
        topics.into_iter().flat_map(|topic| self.problem.partitions_of(topic)).collect()
    }

    fn keep_owned(&mut self) -> HashSet<Partition> {
        let mut kept = HashSet::new();
        for member in 0..self.assignment.len() {
            let held = std::mem::take(&mut self.assignment[member]);
            for tp in held {
                if !self.problem.exists(tp) {
                    continue;
                }
                if !self.topics[member].contains(&tp.0) || self.problem.racks.mismatch(member, tp) {
                    self.revocation_required = true;
                    continue;
                }
                kept.insert(tp);
                self.owner.insert(tp, member);
                self.assignment[member].push(tp);
            }
        }
        kept
    }

    fn balance(&mut self, all: &mut Vec<Partition>, unassigned: &mut Vec<Partition>) {
        let initializing = self.by_load.last().is_none_or(|&(count, ..)| count == 0);
        let mut to_assign = unassigned.clone();
        if self.problem.racks.in_use {
            to_assign.retain(|&tp| !self.give(tp, true));
        }
        for tp in to_assign {
            self.give(tp, false);
        }

        all.retain(|tp| self.consumers[tp.0 as usize].len() >= 2);
        unassigned.retain(|tp| self.consumers[tp.0 as usize].len() >= 2);
        for member in 0..self.assignment.len() {
            if !self.can_take_part(member) {
                self.by_load.remove(&self.load(member));
            }
        }
        let before = (self.assignment.clone(), self.owner.clone(), self.score());

        if !self.revocation_required {
            self.reassign(unassigned);
        }
        let reassigned = self.reassign(all);
        if !initializing && reassigned && self.score() >= before.2 {
            self.assignment = before.0;
            self.owner = before.1;
        }
    }

    fn load(&self, member: usize) -> (usize, usize, usize) {
        (self.assignment[member].len(), self.problem.rank[member], member)
    }

    fn give(&mut self, tp: Partition, near_only: bool) -> bool {
        let taker = self.by_load.iter().map(|&(.., member)| member).find(|&member| {
            self.topics[member].contains(&tp.0) && !(near_only && self.problem.racks.mismatch(member, tp))
        });
        let Some(member) = taker else { return false };
        self.by_load.remove(&self.load(member));
        self.assignment[member].push(tp);
        self.owner.insert(tp, member);
        self.by_load.insert(self.load(member));
        true
    }

    fn most_assignable(&self, member: usize) -> usize {
        self.topics[member].iter().map(|&topic| self.problem.partition_count(topic)).sum()
    }

    fn can_take_part(&self, member: usize) -> bool {
        self.assignment[member].len() < self.most_assignable(member)
            || self.assignment[member].iter().any(|tp| self.consumers[tp.0 as usize].len() >= 2)
    }

    fn takes_part(&self, member: usize) -> bool {
        self.by_load.contains(&self.load(member))
    }

    /// Sum of the differences between every two members that take part.
    fn score(&self) -> usize {
        let loads: Vec<usize> = self.by_load.iter().map(|&(.., member)| self.assignment[member].len()).collect();
        loads
            .iter()
            .enumerate()
            .map(|(index, one)| loads[index + 1..].iter().map(|two| one.abs_diff(*two)).sum::<usize>())
            .sum()
    }

    fn is_balanced(&self) -> bool {
        let (Some(&(least, ..)), Some(&(most, ..))) = (self.by_load.first(), self.by_load.last()) else { return true };
        if least + 1 >= most {
            return true;
        }
        // The heaviest holder of each topic decides whether anybody could take one of its partitions.
        let mut heaviest: BTreeMap<u32, usize> = BTreeMap::new();
        for &(count, _, member) in &self.by_load {
            for tp in &self.assignment[member] {
                let heavy = heaviest.entry(tp.0).or_default();
                *heavy = count.max(*heavy);
            }
        }
        self.by_load.iter().all(|&(count, _, member)| {
            count == self.most_assignable(member)
                || self.topics[member].iter().all(|topic| heaviest.get(topic).is_none_or(|&heavy| count + 1 >= heavy))
        })
    }

    fn reassign(&mut self, partitions: &[Partition]) -> bool {
        let mut any = false;
        loop {
            let mut modified = false;
            for &tp in partitions {
                if self.is_balanced() {
                    break;
                }
                let Some(&owner) = self.owner.get(&tp) else { continue };
                let count = self.assignment[owner].len();
                if let Some(&(previous, _)) = self.previous.get(&tp)
                    && self.takes_part(previous)
                    && self.topics[previous].contains(&tp.0)
                    && count > self.assignment[previous].len() + 1
                {
                    self.move_to(tp, previous);
                    modified = true;
                    continue;
                }
                // A lighter member near the partition, else any lighter one: the taker is the lightest either way.
                let lighter = self.consumers[tp.0 as usize]
                    .iter()
                    .any(|&other| self.takes_part(other) && count > self.assignment[other].len() + 1);
                if lighter {
                    let taker = self
                        .by_load
                        .iter()
                        .map(|&(.., member)| member)
                        .find(|&member| self.topics[member].contains(&tp.0));
                    if let Some(taker) = taker {
                        self.move_to(tp, taker);
                        modified = true;
                    }
                }
            }
            any |= modified;
            if !modified {
                return any;
            }
        }
    }

    fn move_to(&mut self, tp: Partition, to: usize) {
        let from = self.owner[&tp];
        let tp = self.movements.better(tp, from, to);
        let from = self.owner[&tp];
        self.by_load.remove(&self.load(from));
        self.by_load.remove(&self.load(to));
        self.movements.record(self.problem, tp, from, to);
        self.assignment[from].retain(|held| *held != tp);
        self.assignment[to].push(tp);
        self.owner.insert(tp, to);
        self.by_load.insert(self.load(from));
        self.by_load.insert(self.load(to));
    }
}
