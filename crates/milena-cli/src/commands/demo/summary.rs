//! What the demo says at its end: a table for a person, or one JSON object.

use std::fmt::Write as _;

use serde::Serialize;

use super::ledger::WorstAirport;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    pub(crate) published: u64,
    pub(crate) handled: u64,
    pub(crate) retried: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) order_violations: u64,
    pub(crate) seconds: f64,
    pub(crate) events_per_second: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) worst_airports: Vec<WorstAirport>,
}

impl Summary {
    /// Every event came to an end that somebody can see, and in order.
    pub(crate) fn is_complete(&self) -> bool {
        self.handled + self.dead_lettered == self.published && self.order_violations == 0
    }

    /// For a person; `place` says where it ran.
    pub(crate) fn to_text(&self, place: &str) -> String {
        let mut text = String::new();
        let mark = if self.is_complete() { "every event accounted for, in order" } else { "NOT ALL IS WELL" };
        let _ = writeln!(text, "\n  Three months of departures through the bus, on {place}: {mark}\n");
        let rows = [
            ("published", thousands(self.published), "acknowledged by the broker".to_owned()),
            ("handled", thousands(self.handled), "each airport's departures in their order".to_owned()),
            ("retried", thousands(self.retried), "attempts that failed and were made again, in place".to_owned()),
            ("dead-lettered", thousands(self.dead_lettered), "poison, kept whole in flights.dead-letters".to_owned()),
            ("order violations", thousands(self.order_violations), "checked at each handling".to_owned()),
            ("events/s", thousands(self.events_per_second.round() as u64), format!("{:.2} s in all", self.seconds)),
            ("end to end p50", micros(self.p50_us), "from publish to handled".to_owned()),
            ("end to end p99", micros(self.p99_us), "retries included".to_owned()),
        ];
        for (name, value, note) in rows {
            let _ = writeln!(text, "  {name:<17}{value:>12}   {note}");
        }
        if let Some(longest) = self.worst_airports.first() {
            let _ = writeln!(text, "\n  Worst mean delay (airports with 20 departures or more)\n");
            for worst in &self.worst_airports {
                let share = (worst.mean_delay_minutes / longest.mean_delay_minutes).clamp(0.0, 1.0);
                let bar = "█".repeat((share * 30.0).round() as usize);
                let _ = writeln!(
                    text,
                    "  {:<5}{:>6.1} min  {bar:<30}  {} departures",
                    worst.airport,
                    worst.mean_delay_minutes,
                    thousands(worst.flights)
                );
            }
        }
        text
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn micros(us: u64) -> String {
    match us {
        0..10_000 => format!("{us} µs"),
        10_000..10_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(micros(950), "950 µs");
        assert_eq!(micros(12_340), "12.3 ms");
    }

    #[test]
    fn a_missing_event_or_a_violation_is_not_complete() {
        let whole = Summary {
            published: 10,
            handled: 8,
            retried: 3,
            dead_lettered: 2,
            order_violations: 0,
            seconds: 1.0,
            events_per_second: 10.0,
            p50_us: 1,
            p99_us: 2,
            worst_airports: Vec::new(),
        };
        assert!(whole.is_complete());
        assert!(!Summary { handled: 7, ..whole.clone() }.is_complete());
        assert!(!Summary { order_violations: 1, ..whole }.is_complete());
    }
}
