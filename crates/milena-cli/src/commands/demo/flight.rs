//! The departures that the demo replays, and the event that each becomes.

use std::path::Path;

use milena::Event;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Trying as _};

/// 20,000 departures of 2001; `data/README.md` says where they come from.
const BUILT_IN: &str = include_str!("../../../data/flights.ndjson");

/// Every so many departures one is poison: no attempt will ever handle it.
const POISON_EVERY: usize = 1_000;
/// Every so many departures one fails at its first attempt.
const FLAKY_EVERY: usize = 97;

/// One line of the file.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Flight {
    pub(crate) departure: String,
    pub(crate) origin: String,
    pub(crate) destination: String,
    pub(crate) delay_minutes: i32,
    pub(crate) distance_miles: i32,
}

/// How an event will go wrong, on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Trouble {
    None,
    FirstAttemptFails,
    Poison,
}

/// A departure on the bus; its aggregate is the airport it departs from.
#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(type = "flights.departed", version = 1, topic = "flights", aggregate = origin, partitions = 6)]
pub(crate) struct Departed {
    pub(crate) origin: String,
    pub(crate) destination: String,
    pub(crate) departure: String,
    pub(crate) delay_minutes: i32,
    pub(crate) distance_miles: i32,
    /// Which run of the demo published it: a topic may still hold those of earlier runs.
    pub(crate) run: String,
    /// Its number among the departures of its airport, for checking order.
    pub(crate) place: u64,
    /// When it was published, in microseconds since the start of the run.
    pub(crate) published_us: u64,
    pub(crate) trouble: Trouble,
}

/// The departures of `file`, or those built in.
pub(crate) fn read(file: Option<&Path>) -> Result<Vec<Flight>, Failure> {
    let owned;
    let text = match file {
        None => BUILT_IN,
        Some(path) => {
            owned = std::fs::read_to_string(path).trying(format_args!("cannot read {}", path.display()))?;
            &owned
        }
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| serde_json::from_str(line).trying(format_args!("line {}: not a departure", index + 1)))
        .collect()
}

/// What is to go wrong with the departure of this index.
pub(crate) fn trouble(index: usize) -> Trouble {
    if (index + 1).is_multiple_of(POISON_EVERY) {
        Trouble::Poison
    } else if (index + 1).is_multiple_of(FLAKY_EVERY) {
        Trouble::FirstAttemptFails
    } else {
        Trouble::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_is_what_it_says() {
        let flights = read(None).ok().unwrap();
        assert_eq!(flights.len(), 20_000);
        assert_eq!((0..20_000).filter(|index| trouble(*index) == Trouble::Poison).count(), 20);
    }
}
