//! All members subscribe to the same topics: keep what each holds up to its quota, give the rest around.

use std::collections::BTreeMap;

use super::{Partition, Problem, Solution};

pub(super) fn solve(problem: &Problem<'_>) -> Solution {
    let total = problem.total_partitions();
    let members = problem.members.len();
    let mut builder = Builder {
        problem,
        min_quota: total / members,
        max_quota: total.div_ceil(members),
        over_min_expected: total % members,
        over_min: 0,
        below_min: Vec::new(),
        at_min: Vec::new(),
        maybe_revoked: BTreeMap::new(),
        solution: Solution { assignment: vec![Vec::new(); members], moving: BTreeMap::new() },
    };
    builder.keep_owned();
    let mut unassigned = builder.unassigned();
    builder.below_min.sort_by_key(|&member| problem.rank[member]);
    builder.at_min.sort_by_key(|&member| problem.rank[member]);
    problem.racks.sort_by_near_members(&mut unassigned);
    if problem.racks.in_use {
        unassigned = builder.give_near(unassigned);
    }
    builder.give_around(unassigned);
    builder.solution
}

struct Builder<'a> {
    problem: &'a Problem<'a>,
    min_quota: usize,
    max_quota: usize,
    /// How many members are to hold one more than `min_quota`.
    over_min_expected: usize,
    over_min: usize,
    below_min: Vec<usize>,
    at_min: Vec<usize>,
    maybe_revoked: BTreeMap<Partition, usize>,
    solution: Solution,
}

impl Builder<'_> {
    fn keep_owned(&mut self) {
        for &member in &self.problem.order {
            let mut kept = Vec::new();
            for &tp in self.problem.owned[member].iter().filter(|&&tp| self.problem.exists(tp)) {
                if self.problem.racks.mismatch(member, tp) {
                    self.maybe_revoked.insert(tp, member);
                } else if !self.problem.disputed.contains(&tp) {
                    kept.push(tp);
                }
            }
            // By partition and then topic: what is cut off is then spread over topics.
            kept.sort_by_key(|&(topic, partition)| (partition, topic));
            let keep = if kept.len() < self.min_quota {
                self.below_min.push(member);
                kept.len()
            } else if kept.len() >= self.max_quota && self.over_min < self.over_min_expected {
                self.over_min += 1;
                if self.over_min == self.over_min_expected {
                    self.at_min.clear();
                }
                self.max_quota
            } else {
                if self.over_min < self.over_min_expected {
                    self.at_min.push(member);
                }
                self.min_quota
            };
            self.maybe_revoked.extend(kept.split_off(keep).into_iter().map(|tp| (tp, member)));
            self.solution.assignment[member] = kept;
        }
    }

    fn unassigned(&self) -> Vec<Partition> {
        let mut assigned: Vec<Partition> = self.solution.assignment.iter().flatten().copied().collect();
        assigned.sort_unstable();
        (0..self.problem.topics.len() as u32)
            .flat_map(|topic| self.problem.partitions_of(topic))
            .filter(|tp| assigned.binary_search(tp).is_err())
            .collect()
    }

    fn give_near(&mut self, unassigned: Vec<Partition>) -> Vec<Partition> {
        let mut next = 0;
        let mut left = Vec::new();
        for tp in unassigned {
            if let Some(mut position) = self.problem.racks.next_near(tp, &self.below_min, next) {
                let member = self.below_min[position];
                let count = self.solution.assignment[member].len() + 1;
                if count >= self.min_quota {
                    self.below_min.remove(position);
                    if count < self.max_quota && self.over_min < self.over_min_expected {
                        self.at_min.push(member);
                    }
                } else {
                    position += 1;
                }
                next = if self.below_min.is_empty() { 0 } else { position % self.below_min.len() };
                self.give(tp, member);
            } else if let Some(position) = self.problem.racks.next_near(tp, &self.at_min, 0) {
                let member = self.at_min[position];
                if self.solution.assignment[member].len() + 1 == self.max_quota {
                    self.at_min.remove(position);
                    self.over_min += 1;
                    if self.over_min == self.over_min_expected {
                        self.at_min.clear();
                    }
                }
                self.give(tp, member);
            } else {
                left.push(tp);
            }
        }
        left
    }

    fn give_around(&mut self, unassigned: Vec<Partition>) {
        let mut cursor = 0;
        for tp in unassigned {
            if cursor >= self.below_min.len() {
                cursor = 0;
            }
            let member = match self.below_min.get(cursor) {
                Some(&member) => {
                    cursor += 1;
                    member
                }
                // The quotas add up to the number of partitions, so somebody has room.
                None => match self.at_min.is_empty() {
                    false => self.at_min.remove(0),
                    true => return,
                },
            };
            let count = self.give(tp, member);
            if count == self.min_quota {
                cursor -= 1;
                self.below_min.remove(cursor);
                self.at_min.push(member);
            }
        }
    }

    fn give(&mut self, tp: Partition, member: usize) -> usize {
        let held_by_other = self.maybe_revoked.get(&tp).is_some_and(|&owner| owner != member);
        if held_by_other || self.problem.disputed.contains(&tp) {
            self.solution.moving.insert(tp, member);
        }
        self.solution.assignment[member].push(tp);
        self.solution.assignment[member].len()
    }
}
