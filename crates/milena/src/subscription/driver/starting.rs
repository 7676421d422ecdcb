//! Where partitions begin: at what the group has committed; else at their oldest event, or, for a late start, at their
//! end, which is committed before the subscription is ready.
//!
//! The consumer never chooses by itself (`auto.offset.reset=none`): what would move a position unsaid comes here or to
//! `seeking`, as an error.

use milena_client::TopicPartition;
use milena_client::consumer::{AssignmentEpoch, Start};

use super::Driver;
use super::reporting::names;
use crate::subscription::background::{Begin, Search, count_partitions, find_foreign_members};
use crate::subscription::status::SubscriptionEvent;

impl Driver {
    pub(super) fn handle_assigned(&mut self, partitions: &[TopicPartition], epoch: AssignmentEpoch) {
        for partition in partitions {
            // What is still out from an earlier assignment must not be committed in this one's name.
            self.engine.remove(partition);
            self.starting.remove(partition);
            self.held.insert(partition.clone(), epoch);
            if self.closing.is_some() {
                // It goes to another member as soon as this one has left.
                let _ = self.consumer.pause(partition);
            } else {
                self.unpositioned.insert(partition.clone());
            }
        }
        self.is_assigned = true;
        if self.closing.is_none() {
            if !partitions.is_empty() {
                self.find_begins(epoch, partitions);
            }
            let (client, group) = (self.client.clone(), self.settings.group.clone());
            self.background.spawn(find_foreign_members(client, group, self.settings.bus.clone()));
            self.background.spawn(count_partitions(self.client.clone(), self.settings.topics.clone()));
        }
        self.engine.tell(SubscriptionEvent::Assigned { partitions: names(partitions) });
    }

    fn find_begins(&mut self, epoch: AssignmentEpoch, partitions: &[TopicPartition]) {
        let late = &self.settings.late;
        let is_late = |partition: &TopicPartition| {
            let said_of = late.get(&*partition.topic).copied().unwrap_or_default();
            usize::try_from(partition.partition).is_ok_and(|index| index < said_of)
        };
        let open = partitions.iter().map(|partition| (partition.clone(), is_late(partition))).collect();
        self.background.spawn(Search::new(self.consumer.clone(), epoch, open).step());
    }

    pub(super) fn handle_begins(&mut self, epoch: AssignmentEpoch, begins: Vec<(TopicPartition, Begin)>) {
        let now = self.now();
        for (partition, begin) in begins {
            // Lost, sought, or already under way by its first records.
            if !self.is_unpositioned(epoch, &partition) {
                continue;
            }
            let (offset, committed) = match begin {
                Begin::Committed(offset) => (offset, offset),
                Begin::Oldest(offset) => (offset, offset),
                // -1 is no committed offset, so that this one will be.
                Begin::End(offset) => (offset, -1),
            };
            // A consumer that has no position yet may have said already that the broker lacks the committed one, and says
            // it once: from here it looks again, and says it of a partition that has begun.
            let is_sought = !matches!(begin, Begin::Committed(_)) || self.consumer.position(&partition).is_none();
            if is_sought && self.consumer.seek(&partition, Start::Offset(offset)).is_err() {
                continue;
            }
            self.unpositioned.remove(&partition);
            self.clear_alarm_of_consumer(Some(&partition));
            if committed < 0 {
                self.starting.insert(partition.clone());
                self.commits.at = Some(now);
            }
            self.engine.assign(partition, offset, committed);
        }
    }

    /// Whether it is still to be found out where a partition begins in that assignment.
    fn is_unpositioned(&self, epoch: AssignmentEpoch, partition: &TopicPartition) -> bool {
        self.held.get(partition) == Some(&epoch) && self.unpositioned.contains(partition)
    }

    /// Raises the alarms of partitions of which it could not be found out where they begin.
    pub(super) fn handle_no_begins(&mut self, epoch: AssignmentEpoch, errors: Vec<(TopicPartition, String)>) {
        for (partition, error) in errors {
            if self.is_unpositioned(epoch, &partition) {
                self.raise_alarm(Some(partition), error);
            }
        }
    }

    /// Lets a search go on for those that still need it.
    pub(super) fn go_on_with(&mut self, epoch: AssignmentEpoch, mut search: Search) {
        if search.retain(|partition| self.is_unpositioned(epoch, partition)) {
            self.background.spawn(search.step());
        }
    }

    pub(super) fn handle_partition_counts(&mut self, counts: Vec<(String, usize)>) {
        for (topic, found) in counts {
            let now = self.held.keys().filter(|held| *held.topic == *topic);
            let highest = now.filter_map(|held| usize::try_from(held.partition).ok()).max();
            let count = found.max(highest.map_or(0, |highest| highest + 1));
            let before = self.partition_counts.get(&topic).copied();
            // A broker that has not heard of the growth yet names fewer.
            self.partition_counts.insert(topic.clone(), count.max(before.unwrap_or_default()));
            if let Some(before) = before
                && before < count
            {
                tracing::warn!(
                    topic,
                    before,
                    now = count,
                    "a topic has more partitions now: aggregates move, and events before and after are not in order"
                );
                self.engine.tell(SubscriptionEvent::PartitionsAdded { topic, before, now: count });
            }
        }
    }
}
