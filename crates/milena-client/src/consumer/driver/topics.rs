//! Which topics the consumer is about, and what metadata says of them: subscriptions, leaders, and, for the leader of a
//! group, partitions that come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use milena_core::consumer::TopicPartition;
use milena_core::group::assignor::TopicRacks;
use milena_core::group::classic::MemberState;
use milena_core::metadata::ClusterSnapshot;
use milena_protocol::Uuid;

use super::{Answer, Driver};
use crate::consumer::outages::Awaited;
use crate::consumer::shared::Subscription;
use crate::error::RequestError;

impl Driver {
    pub(super) fn follow_subscription(&mut self, now: Instant) {
        let (subscribed, subscription) = {
            let state = self.shared.state();
            if state.subscribed == self.seen.0 {
                return;
            }
            (state.subscribed, state.subscription.clone())
        };
        self.seen.0 = subscribed;
        let metadata = Arc::clone(&self.shared.client.metadata);
        let matching = matches!(subscription, Subscription::Matching(_));
        if matching != self.pinned_all {
            if matching {
                metadata.pin_all()
            } else {
                metadata.unpin_all()
            }
            self.pinned_all = matching;
        }
        let wanted: BTreeSet<Arc<str>> = match &subscription {
            Subscription::Topics(topics) => topics.clone(),
            Subscription::Assigned => {
                let state = self.shared.state();
                state.positions.iter().map(|(partition, _)| Arc::clone(&partition.topic)).collect()
            }
            Subscription::None | Subscription::Matching(_) => BTreeSet::new(),
        };
        self.pin(wanted.clone());
        match subscription {
            Subscription::Topics(topics) => self.subscribe(now, topics),
            Subscription::Assigned => self.check_assigned(),
            Subscription::Matching(_) => self.seen.1 = 0,
            Subscription::None => {}
        }
    }

    pub(super) fn pin(&mut self, wanted: BTreeSet<Arc<str>>) {
        let metadata = &self.shared.client.metadata;
        for topic in wanted.difference(&self.pinned) {
            metadata.pin(topic);
        }
        for topic in self.pinned.difference(&wanted) {
            metadata.unpin(topic);
        }
        self.pinned = wanted;
    }

    fn subscribe(&mut self, now: Instant, topics: BTreeSet<Arc<str>>) {
        if let Some(membership) = &mut self.membership {
            membership.subscribe(now, topics);
        }
    }

    /// Partitions that were assigned by hand should be there; a typo must not wait for ever.
    fn check_assigned(&self) {
        let partitions: Vec<TopicPartition> =
            self.shared.state().positions.iter().map(|(partition, _)| partition.clone()).collect();
        for partition in partitions {
            let client = Arc::clone(&self.shared.client);
            if client.metadata.snapshot().partition(&partition.topic, partition.partition).is_some() {
                continue;
            }
            let answer_to = self.answer_to.clone();
            let check = async move {
                let error = match client.metadata.topic(&partition.topic, client.config.api_timeout).await {
                    Ok(topic) if topic.partition(partition.partition).is_some() => return,
                    Ok(topic) => RequestError::UnknownPartition {
                        topic: partition.topic.to_string(),
                        partition: partition.partition,
                        partitions: topic.partitions.len(),
                    },
                    Err(error) => error,
                };
                drop(answer_to.send(Answer::Unreadable(partition, error)).await);
            };
            if self.shared.client.tasks.spawn("look for a partition", check).is_err() {
                self.shared.end();
            }
        }
    }

    pub(super) fn follow_metadata(&mut self, now: Instant) {
        let snapshot = self.shared.client.metadata.snapshot();
        let assignments = self.shared.state().assignments();
        if (snapshot.generation(), assignments) == (self.seen.1, self.seen.2) {
            return;
        }
        (self.seen.1, self.seen.2) = (snapshot.generation(), assignments);
        let mut leaderless = Vec::new();
        let matching = {
            let mut state = self.shared.state();
            let held: Vec<TopicPartition> = state.positions.iter().map(|(partition, _)| partition.clone()).collect();
            for partition in held {
                let leader = snapshot.leader(&partition.topic, partition.partition);
                if leader.is_none() {
                    let had_one = state.positions.get(&partition).is_some_and(|position| position.leader.is_some());
                    leaderless.extend(missing(&snapshot, &partition, had_one));
                }
                let topic_id = snapshot.topic(&partition.topic).map_or(Uuid::ZERO, |topic| topic.id);
                state.positions.set_topic_id(&partition, topic_id);
                state.set_leader(&partition, leader.map(|(node, epoch)| (node, epoch.unwrap_or(-1))));
            }
            match &state.subscription {
                Subscription::Matching(filter) => Some(Arc::clone(filter)),
                _ => None,
            }
        };
        leaderless.into_iter().for_each(|(awaited, error)| self.shared.failed(awaited, now, &error));
        if let Some(filter) = matching {
            let there = snapshot.topics().filter(|topic| topic.error.is_ok() && !topic.is_internal);
            let topics = there.filter(|topic| filter(&topic.name)).map(|topic| Arc::clone(&topic.name)).collect();
            self.subscribe(now, topics);
        }
        self.watch_partitions(now, &snapshot);
        self.shared.fetchers.notify_waiters();
    }

    /// As leader: a topic that grew, appeared or went needs another assignment.
    fn watch_partitions(&mut self, now: Instant, snapshot: &ClusterSnapshot) {
        let Some(membership) = self.membership.as_mut().filter(|known| known.state() == MemberState::Stable) else {
            return;
        };
        let (Some(topics), Some((_, generation))) = (membership.group_topics(), membership.generation()) else {
            return;
        };
        let counts = partition_counts(&racks(snapshot, topics));
        match &self.assigned_counts {
            Some((assigned_in, assigned)) if *assigned_in == generation => {
                if *assigned != counts {
                    membership.request_rejoin(now, "the partitions of the group's topics changed");
                }
            }
            _ => self.assigned_counts = Some((generation, counts)),
        }
    }
}

/// What a partition without a leader waits for. One that never was there is reported by whoever looks for it.
fn missing(
    snapshot: &ClusterSnapshot,
    partition: &TopicPartition,
    had_leader: bool,
) -> Option<(Awaited, RequestError)> {
    let (topic, index) = (partition.topic.to_string(), partition.partition);
    match snapshot.partition(&topic, index).map(|known| known.leader) {
        // The metadata has forgotten the brokers, since none of them answered.
        Some(Some(node)) => Some((Awaited::Broker(node), RequestError::NoBroker)),
        Some(None) => {
            let error = RequestError::NoLeader { topic, partition: index };
            Some((Awaited::Leader(partition.clone()), error))
        }
        None if had_leader => Some((Awaited::Leader(partition.clone()), RequestError::UnknownTopic { topic })),
        None => None,
    }
}

pub(super) fn partition_counts(racks: &TopicRacks) -> BTreeMap<Arc<str>, usize> {
    racks.iter().map(|(topic, partitions)| (Arc::clone(topic), partitions.len())).collect()
}

/// Racks of the replicas of each topic that is there.
pub(super) fn racks(snapshot: &ClusterSnapshot, topics: &BTreeSet<Arc<str>>) -> TopicRacks {
    let mut known = TopicRacks::new();
    for name in topics {
        let Some(topic) = snapshot.topic(name).filter(|topic| topic.error.is_ok()) else { continue };
        let rack = |node: &i32| snapshot.broker(*node).and_then(|broker| broker.rack.clone());
        let partitions = topic.partitions.iter().map(|partition| partition.replicas.iter().filter_map(rack).collect());
        known.insert(Arc::clone(name), partitions.collect());
    }
    known
}
