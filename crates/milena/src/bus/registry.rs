//! The subscriptions of a bus: for closing them all, and for refusing two that would share a topic within one group.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tokio::task::JoinSet;

use super::close::Deadline;
use crate::subscription::{CloseReport, Subscription};

/// Their part of the time that a bus has to close in: dead letters of the last moment are flushed after them.
const SUBSCRIPTIONS_SHARE: f64 = 0.8;

/// Subscriptions that are not over.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    subscriptions: Vec<Subscription>,
    /// Group and topic of subscriptions that are just being made.
    claims: BTreeSet<(String, String)>,
    is_closed: bool,
}

/// Group and topics held for a subscription that is being made; released when dropped.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    registry: &'a Registry,
    names: Vec<(String, String)>,
}

/// Why a claim was refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Closed,
    /// The topic is subscribed in that group already.
    Taken(String),
}

impl Registry {
    /// Claims `topics` for `group`.
    ///
    /// Two subscriptions of one group on one topic would split its partitions between them, and each would see only
    /// half of the events: handlers of several types belong on one subscription.
    pub(crate) fn claim(&self, group: &str, topics: &[String]) -> Result<Claim<'_>, Refused> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(Refused::Closed);
        }
        state.subscriptions.retain(|subscription| !subscription.is_over());
        let names: Vec<_> = topics.iter().map(|topic| (group.to_owned(), topic.clone())).collect();
        for (group, topic) in &names {
            let is_running = state
                .subscriptions
                .iter()
                .any(|subscription| subscription.group() == group && subscription.topics().contains(topic));
            if is_running || state.claims.contains(&(group.clone(), topic.clone())) {
                return Err(Refused::Taken(topic.clone()));
            }
        }
        state.claims.extend(names.iter().cloned());
        Ok(Claim { registry: self, names })
    }

    /// Topics that this bus reads in `group`.
    pub(crate) fn topics_of(&self, group: &str) -> BTreeSet<String> {
        let state = self.lock();
        let of_group = state.subscriptions.iter().filter(|subscription| subscription.group() == group);
        let running = of_group.flat_map(|subscription| subscription.topics().iter().cloned());
        let claimed = state.claims.iter().filter(|(claimed, _)| claimed == group).map(|(_, topic)| topic.clone());
        running.chain(claimed).collect()
    }

    /// Number of subscriptions that run.
    pub(crate) fn running(&self) -> usize {
        self.lock().subscriptions.iter().filter(|subscription| !subscription.is_over()).count()
    }

    /// Closes all, side by side, and refuses new ones from now on. The deadline may come nearer meanwhile.
    pub(crate) async fn close_all(&self, deadline: &Deadline) -> Vec<CloseReport> {
        let subscriptions = {
            let mut state = self.lock();
            state.is_closed = true;
            // Kept: until they are over, they count as running.
            state.subscriptions.clone()
        };
        let mut closing = JoinSet::new();
        for subscription in subscriptions {
            let mut deadline = deadline.clone();
            closing.spawn(
                async move { deadline.hurry(|left| subscription.close(left.mul_f64(SUBSCRIPTIONS_SHARE))).await },
            );
        }
        closing.join_all().await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // No code that holds the lock can leave it half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim<'_> {
    /// Puts the finished subscription in the claim's place. `Err` gives it back if the bus was closed meanwhile.
    pub(crate) fn fulfil(self, subscription: Subscription) -> Result<(), Subscription> {
        let mut state = self.registry.lock();
        if state.is_closed {
            drop(state);
            return Err(subscription);
        }
        state.subscriptions.push(subscription);
        drop(state);
        Ok(())
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        for name in &self.names {
            state.claims.remove(name);
        }
    }
}
