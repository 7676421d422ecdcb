//! What is kept of a partition that nothing is to be done for: of the thousands that a producer once wrote to, most are
//! idle, and hold what the next batch must not be without. Everything else is made by the first append, and given up
//! when there was none for a while.

use std::ops::{Deref, DerefMut};
use std::sync::MutexGuard;

use milena_core::producer::partition_queue::{Leader, PartitionQueue, Remembered};
use milena_protocol::Uuid;

use super::partition::State;

/// A partition's state, if it has any.
#[derive(Default)]
pub(super) struct Held {
    pub(super) active: Option<Box<State>>,
    /// Current only while it is idle.
    rest: Rest,
}

#[derive(Clone, Copy, Default)]
struct Rest {
    queue: Remembered,
    leader: Option<Leader>,
    leader_hinted: bool,
    /// A node may hold it listed for what was given up since.
    listed: bool,
    topic_id: Uuid,
}

impl Held {
    /// Makes the state that an idle partition is without.
    pub(super) fn wake(&mut self) -> &mut State {
        let rest = self.rest;
        // The batch that it wakes for, which is counted when it opens and when it closes, needs no second look to be seen
        // as old if it stays the only one.
        self.active.get_or_insert_with(|| Box::new(State { opened_before: 2, ..State::recall(rest) }))
    }

    /// Gives the state up, unless it holds more than can be remembered.
    fn retire(&mut self) -> bool {
        let Some(rest) = self.active.as_deref().and_then(State::remember) else { return false };
        self.rest = rest;
        self.active = None;
        true
    }

    /// Has `change` made to the state; an idle partition stays idle, if it has nothing to do then.
    pub(super) fn update<R>(&mut self, change: impl FnOnce(&mut State) -> R) -> R {
        if let Some(state) = &mut self.active {
            return change(state);
        }
        let mut state = State::recall(self.rest);
        let result = change(&mut state);
        match state.remember() {
            Some(rest) => self.rest = rest,
            None => self.active = Some(Box::new(state)),
        }
        result
    }

    /// No node has it listed any more, if it is idle.
    pub(super) fn unlist(&mut self) {
        self.rest.listed = false;
    }
}

impl State {
    fn remember(&self) -> Option<Rest> {
        if self.has_work() {
            return None;
        }
        let queue = self.queue.remember(self.leader)?;
        let Self { leader, leader_hinted, listed, topic_id, .. } = *self;
        Some(Rest { queue, leader, leader_hinted, listed, topic_id })
    }

    fn recall(rest: Rest) -> Self {
        let Rest { queue, leader, leader_hinted, listed, topic_id } = rest;
        let queue = PartitionQueue::recall(queue, leader);
        Self { queue, leader, leader_hinted, listed, topic_id, ..Self::default() }
    }
}

/// A partition that is not idle, locked.
pub(super) struct Locked<'a>(MutexGuard<'a, Held>);

impl<'a> Locked<'a> {
    /// `None` where it is idle.
    pub(super) fn new(held: MutexGuard<'a, Held>) -> Option<Self> {
        held.active.is_some().then_some(Self(held))
    }

    /// Gives the state up, unless it holds more than can be remembered. There is none to be looked at then.
    pub(super) fn retire(&mut self) -> bool {
        self.0.retire()
    }
}

const ACTIVE: &str = "looked at when it was locked";

impl Deref for Locked<'_> {
    type Target = State;

    #[inline]
    fn deref(&self) -> &State {
        self.0.active.as_deref().expect(ACTIVE)
    }
}

impl DerefMut for Locked<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut State {
        self.0.active.as_deref_mut().expect(ACTIVE)
    }
}
