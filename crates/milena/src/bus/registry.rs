//! The subscriptions of a bus: for closing them all, for refusing two that would share a topic within one group, and for
//! what those left that are over.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tokio::task::JoinSet;

use super::close::Deadline;
use crate::subscription::{CloseReport, Subscription};

/// Their part of the time that a bus has to close in: dead letters of the last moment are flushed after them.
const SUBSCRIPTIONS_SHARE: f64 = 0.8;

/// Subscriptions that are not over, or not known to be.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    subscriptions: Vec<Subscription>,
    /// What is told of those that are over and left nothing.
    ended: CloseReport,
    /// Those that left something, which no later one has taken up. No more than a bus has groups and topics.
    leftovers: Vec<Leftover>,
    /// Group and topic of subscriptions that are just being made.
    claims: BTreeSet<(String, String)>,
    is_closed: bool,
}

/// What a subscription left that is over.
#[derive(Debug)]
struct Leftover {
    group: String,
    /// Topics of it that nobody of this bus has read in its group since.
    topics: Vec<String>,
    report: CloseReport,
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
        state.put_away();
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

    /// Closes all, side by side, and refuses new ones from now on. The deadline may come nearer meanwhile. Tells of those
    /// too that were over before.
    pub(crate) async fn close_all(&self, deadline: &Deadline) -> CloseReport {
        let (subscriptions, mut report) = {
            let mut state = self.lock();
            state.is_closed = true;
            state.put_away();
            let mut before = state.ended;
            state.leftovers.iter().for_each(|leftover| before.add(leftover.report));
            // Kept: until they are over, they count as running.
            (state.subscriptions.clone(), before)
        };
        let mut closing = JoinSet::new();
        for subscription in subscriptions {
            let mut deadline = deadline.clone();
            closing.spawn(
                async move { deadline.hurry(|left| subscription.close(left.mul_f64(SUBSCRIPTIONS_SHARE))).await },
            );
        }
        closing.join_all().await.into_iter().for_each(|part| report.add(part));
        report
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // No code that holds the lock can leave it half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes out the subscriptions that are over, and keeps what is to be told of them.
    fn put_away(&mut self) {
        for over in self.subscriptions.extract_if(.., |subscription| subscription.is_over()) {
            let (group, topics) = (over.group().to_owned(), over.topics().to_vec());
            let report = over.last_report();
            if report.is_complete() {
                self.ended.add(report);
            } else {
                self.leftovers.push(Leftover { group, topics, report });
            }
        }
    }

    /// What was left of `topics` in `group` is handled by whoever reads them now, and is no longer left.
    fn take_up(&mut self, group: &str, topics: &[String]) {
        for leftover in self.leftovers.iter_mut().filter(|leftover| leftover.group == group) {
            leftover.topics.retain(|topic| !topics.contains(topic));
        }
        for taken_up in self.leftovers.extract_if(.., |leftover| leftover.topics.is_empty()) {
            self.ended.add(taken_up.report.counts());
        }
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
        state.take_up(subscription.group(), subscription.topics());
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
