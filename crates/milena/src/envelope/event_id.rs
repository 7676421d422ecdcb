//! Ids of events: UUID version 7 (RFC 9562), rising within one process even inside a millisecond.
//!
//! Time and chance are given, so that a seeded run makes the same ids again.

use std::sync::Mutex;

use uuid::Uuid;

/// Makes ids, each greater than the one before.
#[derive(Debug)]
pub(crate) struct EventIds(Mutex<State>);

#[derive(Debug)]
struct State {
    rng: fastrand::Rng,
    millis: u64,
    /// Counts within the millisecond, in the 12 bits that follow the time (RFC 9562 §6.2, method 1).
    counter: u16,
}

const COUNTER_LIMIT: u16 = 1 << 12;

impl EventIds {
    pub(crate) fn new(rng: fastrand::Rng) -> Self {
        Self(Mutex::new(State { rng, millis: 0, counter: 0 }))
    }

    /// The next id, at `millis` since 1970. A clock that stands still or steps back does not make ids fall.
    pub(crate) fn next(&self, millis: u64) -> Uuid {
        let mut guard = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let state = &mut *guard;
        if millis > state.millis {
            state.millis = millis;
            // Start low, so that a millisecond has room for at least 2,048 ids before the time must be borrowed from.
            state.counter = state.rng.u16(0..COUNTER_LIMIT / 2);
        } else {
            state.counter += 1;
            if state.counter == COUNTER_LIMIT {
                state.millis += 1;
                state.counter = 0;
            }
        }
        let mut random = [0; 10];
        random[..2].copy_from_slice(&state.counter.to_be_bytes());
        random[2..].copy_from_slice(&state.rng.u64(..).to_be_bytes());
        uuid::Builder::from_unix_timestamp_millis(state.millis, &random).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_even_when_the_clock_stands_still_or_steps_back() {
        let ids = EventIds::new(fastrand::Rng::with_seed(7));
        let mut last = ids.next(1_000);
        for step in 0..10_000_u64 {
            let millis = if step % 1_000 == 999 { 900 } else { 1_000 + step / 5_000 };
            let id = ids.next(millis);
            assert!(id > last, "{id} does not follow {last}");
            assert_eq!(id.get_version_num(), 7);
            last = id;
        }
    }

    #[test]
    fn an_id_says_when_it_was_made_and_a_seed_makes_it_again() {
        let make = || EventIds::new(fastrand::Rng::with_seed(7)).next(1_760_170_150_123);
        assert_eq!(make(), make());
        let (seconds, nanos) = make().get_timestamp().unwrap().to_unix();
        assert_eq!((seconds, nanos / 1_000_000), (1_760_170_150, 123));
    }
}
