//! What the handlers of the demo write down: counts, delays per airport, latencies, and whether order was kept.
//!
//! The checker is independent of the bus: each event carries its place in its airport's sequence, and a first successful
//! handling that comes after that of a later departure of the same airport is a violation.

use std::collections::HashMap;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Totals and per-airport figures of one run.
#[derive(Debug)]
pub(crate) struct Ledger {
    airports: HashMap<String, Airport>,
    latency: Histogram<u64>,
    pub(crate) handled: u64,
    pub(crate) order_violations: u64,
    /// Handled again after a first success, as at-least-once delivery may do.
    pub(crate) repeated: u64,
}

#[derive(Debug, Default)]
struct Airport {
    flights: u64,
    delay_minutes: i64,
    last_place: Option<u64>,
}

/// An airport and its mean delay.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(crate) struct WorstAirport {
    pub(crate) airport: String,
    pub(crate) mean_delay_minutes: f64,
    pub(crate) flights: u64,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are constants in order");
        Self { airports: HashMap::new(), latency, handled: 0, order_violations: 0, repeated: 0 }
    }

    /// A departure was handled for good. `place` is its number among the departures of its airport.
    pub(crate) fn handled(&mut self, airport: &str, place: u64, delay_minutes: i32, latency: Duration) {
        let entry = match self.airports.get_mut(airport) {
            Some(entry) => entry,
            None => self.airports.entry(airport.to_owned()).or_default(),
        };
        match entry.last_place {
            Some(last) if place == last => {
                self.repeated += 1;
                return;
            }
            Some(last) if place < last => self.order_violations += 1,
            _ => entry.last_place = Some(place),
        }
        entry.flights += 1;
        entry.delay_minutes += i64::from(delay_minutes);
        self.handled += 1;
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency.saturating_record(micros);
    }

    pub(crate) fn percentile_us(&self, percentile: f64) -> u64 {
        self.latency.value_at_percentile(percentile)
    }

    /// The airports with the worst mean delay among those with at least 20 departures: fewer say little.
    pub(crate) fn worst_airports(&self, count: usize) -> Vec<WorstAirport> {
        let mut worst: Vec<WorstAirport> = self
            .airports
            .iter()
            .filter(|(_, airport)| airport.flights >= 20)
            .map(|(name, airport)| WorstAirport {
                airport: name.clone(),
                mean_delay_minutes: airport.delay_minutes as f64 / airport.flights as f64,
                flights: airport.flights,
            })
            .collect();
        worst.sort_by(|a, b| b.mean_delay_minutes.total_cmp(&a.mean_delay_minutes).then(a.airport.cmp(&b.airport)));
        worst.truncate(count);
        worst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overtaking_departure_is_a_violation_and_a_repetition_is_not() {
        let mut ledger = Ledger::new();
        let ms = Duration::from_millis(1);
        for place in [0, 1, 3, 2, 3, 4] {
            ledger.handled("ORD", place, 5, ms);
        }
        ledger.handled("SFO", 0, 5, ms);
        assert_eq!((ledger.order_violations, ledger.repeated, ledger.handled), (1, 1, 6));
    }

    #[test]
    fn few_departures_are_not_ranked() {
        let mut ledger = Ledger::new();
        for place in 0..20 {
            ledger.handled("ORD", place, 10, Duration::ZERO);
            ledger.handled("SFO", place, 20, Duration::ZERO);
        }
        ledger.handled("BTV", 0, 900, Duration::ZERO);
        let worst = ledger.worst_airports(10);
        assert_eq!(worst.iter().map(|w| w.airport.as_str()).collect::<Vec<_>>(), ["SFO", "ORD"]);
        assert!((worst[0].mean_delay_minutes - 20.0).abs() < 1e-9);
    }
}
