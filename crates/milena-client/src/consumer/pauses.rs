//! How long what failed is left alone (KIP-580): `retry.backoff.ms`, doubled each time in a row up to `retry.backoff.max.ms`,
//! spread by a fifth either way. Of each partition by itself, until it succeeds or is for another node to answer; that a
//! committed offset had no answer counts until it has one, whichever node coordinates the group.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use milena_core::consumer::TopicPartition;

use crate::client::ClientInner;

/// The pauses after one answer. What failed in it, and failed as often before, is asked for together again: chance is drawn
/// once, and only where something failed.
pub(super) struct Pauses<'a> {
    client: &'a ClientInner,
    chance: OnceCell<fastrand::Rng>,
}

impl<'a> Pauses<'a> {
    pub(super) fn new(client: &'a ClientInner) -> Self {
        Self { client, chance: OnceCell::new() }
    }

    /// After so many failures in a row before this.
    pub(super) fn after(&self, failures: u32) -> Duration {
        let chance = self.chance.get_or_init(|| self.client.chance.fork());
        self.client.retry_backoff().delay(failures, &mut chance.clone())
    }
}

/// When a partition may be fetched, as far as what failed before decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing failed.
    Free,
    /// Its pause is over.
    Due,
    /// Its pause is over then, and all but over now: with one that is due it may go along. So those that began to fail at
    /// different times come together, and are not a request each for ever.
    Soon(Instant),
    /// Its pause is over then.
    Later(Instant),
}

/// Partitions that are not to be fetched for a while.
#[derive(Debug, Default)]
pub(super) struct Paused {
    known: BTreeMap<TopicPartition, Pause>,
}

#[derive(Debug)]
struct Pause {
    until: Instant,
    /// From then on it may go along with another: the last fifth, which is as much as chance makes of it.
    soon: Instant,
    /// Fetches in a row that failed.
    failures: u32,
    /// It ends as soon as nothing of the partition is left to hand over.
    until_drained: bool,
}

impl Paused {
    /// Whether the partition is left alone.
    pub(super) fn turn(&self, partition: &TopicPartition, now: Instant) -> Turn {
        match self.known.get(partition) {
            None => Turn::Free,
            Some(pause) if now >= pause.until => Turn::Due,
            Some(pause) if now >= pause.soon => Turn::Soon(pause.until),
            Some(pause) => Turn::Later(pause.until),
        }
    }

    /// A fetch of it failed.
    pub(super) fn fail(&mut self, partition: &TopicPartition, now: Instant, pauses: &Pauses<'_>) {
        let failures = self.known.get(partition).map_or(0, |known| known.failures);
        let pause = pauses.after(failures);
        let (until, soon) = (now + pause, now + pause * 4 / 5);
        let failures = failures.saturating_add(1);
        self.known.insert(partition.clone(), Pause { until, soon, failures, until_drained: false });
    }

    /// It is left alone until then, for a reason that does not count.
    pub(super) fn delay(&mut self, partition: &TopicPartition, until: Instant) {
        let failures = self.known.get(partition).map_or(0, |known| known.failures);
        self.known.insert(partition.clone(), Pause { until, soon: until, failures, until_drained: false });
    }

    /// It is left alone until what is here of it was handed over, or until then.
    pub(super) fn drain(&mut self, partition: &TopicPartition, until: Instant) {
        self.known.insert(partition.clone(), Pause { until, soon: until, failures: 0, until_drained: true });
    }

    /// What was here of it was handed over.
    pub(super) fn drained(&mut self, partition: &TopicPartition) {
        if self.known.get(partition).is_some_and(|known| known.until_drained) {
            self.known.remove(partition);
        }
    }

    /// A fetch of it succeeded, or another is due that has nothing to do with those that failed.
    pub(super) fn forget(&mut self, partition: &TopicPartition) {
        self.known.remove(partition);
    }
}
