//! Where partitions begin: at what the group has committed; else at their oldest event, or, for a late start, at their
//! end, which is committed before the subscription is ready.
//!
//! The consumer never chooses by itself (`auto.offset.reset=none`): what would move a position unsaid comes here or to
//! `seeking`, as an error.

use milena_client::TopicPartition;
use milena_client::consumer::{AssignmentEpoch, Start};

use super::Driver;
use super::reporting::names;
use crate::subscription::background::{Asking, Begin, count_partitions, find_begins, find_foreign_members};
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
                let asking = if partitions.len() > 1 { Asking::Together } else { Asking::Alone };
                self.find_begins(epoch, partitions.to_vec(), asking);
            }
            let (client, group) = (self.client.clone(), self.settings.group.clone());
            self.background.spawn(find_foreign_members(client, group, self.settings.bus.clone()));
            self.background.spawn(count_partitions(self.client.clone(), self.settings.topics.clone()));
        }
        self.engine.tell(SubscriptionEvent::Assigned { partitions: names(partitions) });
    }

    fn find_begins(&mut self, epoch: AssignmentEpoch, partitions: Vec<TopicPartition>, asking: Asking) {
        let late = &self.settings.late;
        let is_late = |partition: &TopicPartition| {
            let said_of = late.get(&*partition.topic).copied().unwrap_or_default();
            usize::try_from(partition.partition).is_ok_and(|index| index < said_of)
        };
        let asked = partitions.into_iter().map(|partition| (is_late(&partition), partition)).collect();
        self.background.spawn(find_begins(self.consumer.clone(), epoch, asked, asking));
    }

    pub(super) fn handle_begins(&mut self, epoch: AssignmentEpoch, begins: Vec<(TopicPartition, Begin)>) {
        let now = self.now();
        for (partition, begin) in begins {
            // Lost, sought, or already under way by its first records.
            if self.held.get(&partition) != Some(&epoch) || !self.unpositioned.contains(&partition) {
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

    /// Asks again where partitions begin, and raises their alarms if there is an error to tell.
    pub(super) fn handle_no_begins(
        &mut self,
        epoch: AssignmentEpoch,
        partitions: Vec<TopicPartition>,
        error: Option<&str>,
    ) {
        let asking = if error.is_some() { Asking::Again } else { Asking::Alone };
        // Each for itself now: one that can't be looked at must not keep the others waiting.
        for partition in partitions {
            if self.held.get(&partition) != Some(&epoch) || !self.unpositioned.contains(&partition) {
                continue;
            }
            if let Some(error) = error {
                self.raise_alarm(Some(partition.clone()), error.to_owned());
            }
            self.find_begins(epoch, vec![partition], asking);
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
