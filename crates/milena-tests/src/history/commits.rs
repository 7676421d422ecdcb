//! The commits of a group: as members sent them, as the coordinator holds them, and where it told members to begin.
//!
//! A commit that was given up may reach the coordinator late, behind a later one of the same generation, and Kafka fences
//! nothing within a generation. So what members send never falls, and what is held falls to nothing but such a commit.

use std::collections::{BTreeMap, BTreeSet};

use super::{History, Violation};

/// Who commits: within one generation a member's offsets of a partition rise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Committer {
    /// The member id.
    pub member: String,
    /// The generation that the commit names.
    pub generation: i32,
}

#[derive(Debug, Default)]
pub(super) struct Commits {
    /// The last one of each, and whether it was answered.
    sent: BTreeMap<(Committer, i32), (i64, bool)>,
    /// By partition, what had no answer when the next was sent: the coordinator may apply it after that.
    late: BTreeSet<(i32, i64)>,
    held: BTreeMap<i32, i64>,
    /// By reader and partition, what the coordinator said of it last.
    told: BTreeMap<(u64, i32), i64>,
    generations: BTreeMap<u64, i32>,
}

impl Commits {
    /// Where a member begins: what was committed, else at the beginning; `None` if it never asked.
    pub(super) fn beginning(&self, reader: u64, partition: i32) -> Option<i64> {
        self.told.get(&(reader, partition)).map(|committed| (*committed).max(0))
    }
}

impl History {
    /// A member sends a commit.
    pub fn commit_sent(&mut self, by: &Committer, partition: i32, offset: i64) {
        let before = self.commits_of.sent.insert((by.clone(), partition), (offset, false));
        let Some((before, is_answered)) = before else { return };
        if !is_answered {
            self.commits_of.late.insert((partition, before));
        }
        if offset < before && !self.is_unclean(partition) {
            self.violated(Violation::CommitSentBack { by: by.clone(), partition, from: before, to: offset });
        }
    }

    /// The coordinator has answered it, so that it is not applied later.
    pub fn commit_answered(&mut self, by: &Committer, partition: i32, offset: i64) {
        let sent = self.commits_of.sent.get_mut(&(by.clone(), partition));
        if let Some((_, is_answered)) = sent.filter(|(last, _)| *last == offset) {
            *is_answered = true;
        }
    }

    /// The coordinator holds this offset now. Call it after each commit: what falls unseen can't be explained later.
    pub fn is_committed(&mut self, partition: i32, committed: i64) {
        self.check_committed(partition, committed);
        let before = self.commits_of.held.insert(partition, committed).unwrap_or(0);
        let is_late = self.commits_of.late.contains(&(partition, committed));
        if committed < before && !is_late && !self.is_unclean(partition) {
            self.violated(Violation::CommitFell { partition, from: before, to: committed });
        }
    }

    /// The coordinator has told a reader what is committed, -1 for nothing.
    pub fn told(&mut self, reader: u64, partition: i32, committed: i64) {
        self.commits_of.told.insert((reader, partition), committed);
    }

    /// A reader asks for its part in this generation.
    pub fn synced(&mut self, reader: u64, generation: i32) {
        self.commits_of.generations.insert(reader, generation);
    }

    /// These hold these partitions at the same time.
    pub fn owns(&mut self, owners: &[(u64, Vec<i32>)]) {
        let mut seen: BTreeSet<(i32, i32)> = BTreeSet::new();
        for (reader, partitions) in owners {
            // One that was thrown out and has not heard of it yet is of an earlier generation.
            let Some(&generation) = self.commits_of.generations.get(reader) else { continue };
            for &partition in partitions {
                if !seen.insert((generation, partition)) {
                    self.violated(Violation::TwoOwners { partition, generation });
                }
            }
        }
    }
}
