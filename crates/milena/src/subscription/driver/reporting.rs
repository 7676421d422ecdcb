//! What a driver tells: its status, and alarms in pairs, raised once and cleared once.

use std::collections::BTreeMap;

use milena_client::TopicPartition;
use milena_client::consumer::{Awaited, ConsumeError};

use super::Driver;
use crate::subscription::consumer::partition_of;
use crate::subscription::status::{SubscriptionEvent, SubscriptionState, SubscriptionStatus};

/// Alarms that are raised and not cleared.
#[derive(Default)]
pub(super) struct Alarms {
    /// Why the last commit failed.
    pub(super) commit: Option<String>,
    foreign_members: Vec<String>,
    /// What the consumer could not do, by the partition that it is about, if it is about one.
    pub(super) consumer: BTreeMap<Option<TopicPartition>, String>,
    /// What the consumer waits for and can't reach. The consumer says when that is over, and nothing else does: other
    /// brokers' records say nothing of it.
    pub(super) unreached: BTreeMap<Awaited, String>,
}

impl Driver {
    pub(super) fn raise_alarm_of_consumer(&mut self, error: &ConsumeError) {
        match error {
            ConsumeError::Unreachable { outage, .. } => {
                let error = describe(error);
                self.alarms.unreached.insert(outage.awaited.clone(), error.clone());
                let partition = name_of(&outage.awaited);
                self.engine.tell(SubscriptionEvent::ConsumerFailed { partition, error });
            }
            error => self.raise_alarm(partition_of(error), describe(error)),
        }
    }

    pub(super) fn handle_reached(&mut self, awaited: &Awaited) {
        if self.alarms.unreached.remove(awaited).is_none() {
            return;
        }
        let partition = name_of(awaited);
        // Those that are not about one partition are cleared together.
        if !self.alarms.unreached.keys().any(|still| name_of(still) == partition) {
            self.engine.tell(SubscriptionEvent::ConsumerRecovered { partition });
        }
    }

    pub(super) fn raise_alarm(&mut self, about: Option<TopicPartition>, error: String) {
        tracing::warn!(group = self.settings.group, error, "consuming goes on after an error");
        if self.alarms.consumer.insert(about.clone(), error.clone()).is_none() {
            let partition = about.map(|partition| (partition.topic.to_string(), partition.partition));
            self.engine.tell(SubscriptionEvent::ConsumerFailed { partition, error });
        }
    }

    pub(super) fn clear_alarm_of_consumer(&mut self, about: Option<&TopicPartition>) {
        if self.alarms.consumer.is_empty() {
            return;
        }
        if self.alarms.consumer.remove(&about.cloned()).is_some() {
            let partition = about.map(|partition| (partition.topic.to_string(), partition.partition));
            self.engine.tell(SubscriptionEvent::ConsumerRecovered { partition });
        }
    }

    pub(super) fn handle_foreign_members(&mut self, members: Vec<String>) {
        if members == self.alarms.foreign_members {
            return;
        }
        self.alarms.foreign_members.clone_from(&members);
        if members.is_empty() {
            self.engine.tell(SubscriptionEvent::ForeignMembersGone);
            return;
        }
        let group = &self.settings.group;
        tracing::warn!(group, ?members, "the group is shared with members that read other topics");
        self.engine.tell(SubscriptionEvent::ForeignMembers { members });
    }

    fn state(&self) -> SubscriptionState {
        if self.closing.is_some() {
            return SubscriptionState::Closing;
        }
        let is_positioned = self.unpositioned.is_empty() && self.starting.is_empty();
        let is_ready = self.is_assigned && is_positioned && self.are_topics_known();
        match (is_ready, self.is_paused) {
            (false, _) => SubscriptionState::Joining,
            (true, false) => SubscriptionState::Running,
            (true, true) => SubscriptionState::Paused,
        }
    }

    /// A member of a large group may have no partition, and is ready; one whose topic does not exist yet is not.
    fn are_topics_known(&self) -> bool {
        if !self.held.is_empty() {
            return true;
        }
        let cluster = self.client.metadata();
        let exists =
            |name: &String| cluster.topics.iter().any(|topic| topic.name == *name && !topic.partitions.is_empty());
        self.settings.topics.iter().all(exists)
    }

    pub(super) fn publish_status(&mut self) {
        let state = self.state();
        let (records, bytes) = self.engine.in_flight();
        let (counts, running, parked) = (self.engine.counts(), self.engine.running(), self.engine.parked());
        let (held_dead_letters, is_full) = (self.engine.held(), self.is_full);
        // What is not reached comes first: the rest may follow from it.
        let (unreached, consumer) = (self.alarms.unreached.values(), self.alarms.consumer.values());
        let trouble = unreached.chain(consumer).chain(&self.alarms.commit).next();
        let held = &self.held;
        self.status.send_if_modified(|status| {
            let is_same = status.state == state
                && status.counts == counts
                && (status.records, status.bytes) == (records, bytes)
                && (status.running, status.parked) == (running, parked)
                && (status.held_dead_letters, status.is_full) == (held_dead_letters, is_full)
                && status.trouble.as_ref() == trouble
                && status.partitions.len() == held.len()
                && status
                    .partitions
                    .iter()
                    .zip(held.keys())
                    .all(|(known, now)| known.0 == *now.topic && known.1 == now.partition);
            if is_same {
                return false;
            }
            *status = SubscriptionStatus {
                state,
                partitions: names(held.keys()),
                counts,
                records,
                bytes,
                running,
                parked,
                held_dead_letters,
                is_full,
                trouble: trouble.cloned(),
                report: None,
            };
            true
        });
    }
}

/// The partition that is waited for, if it is about one.
fn name_of(awaited: &Awaited) -> Option<(String, i32)> {
    match awaited {
        Awaited::Leader(partition) => Some((partition.topic.to_string(), partition.partition)),
        _ => None,
    }
}

pub(super) fn names<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> Vec<(String, i32)> {
    partitions.into_iter().map(|partition| (partition.topic.to_string(), partition.partition)).collect()
}

/// An error with what is behind it, as one line.
pub(crate) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
