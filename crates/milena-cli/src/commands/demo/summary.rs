//! What the demo says at its end: a table for a person, or one JSON object.

use std::fmt::Write as _;

use serde::Serialize;

use super::ledger::WorstAirport;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    pub(crate) published: u64,
    pub(crate) handled: u64,
    #[serde(skip)]
    pub(crate) repeated: u64,
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
    /// What is wrong; nothing, if every event came to an end that somebody can see, and in order.
    pub(crate) fn complaint(&self) -> Option<String> {
        let ended = self.handled + self.dead_lettered;
        let mut complaints = Vec::new();
        if ended < self.published {
            complaints.push(format!("{} events are missing", thousands(self.published - ended)));
        }
        if ended > self.published {
            complaints.push(format!("{} events are counted twice", thousands(ended - self.published)));
        }
        if self.order_violations > 0 {
            complaints.push(format!("{} were handled out of order", thousands(self.order_violations)));
        }
        (!complaints.is_empty()).then(|| complaints.join(", "))
    }

    /// For a person; `place` says where it ran.
    pub(crate) fn to_text(&self, place: &str) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "\n  {} departures through the bus, on {place}\n", thousands(self.published));
        let mut rows = vec![
            ("published", thousands(self.published), "each acknowledged by the broker"),
            ("handled", thousands(self.handled), "the departures of each airport in their order"),
            ("retried", thousands(self.retried), "failed attempts, made again while other airports went on"),
            ("dead-lettered", thousands(self.dead_lettered), "poison on purpose, set aside in flights.dead-letters"),
            ("order violations", thousands(self.order_violations), "looked for at every event"),
        ];
        if self.repeated > 0 {
            rows.push(("handled again", thousands(self.repeated), "delivery is at least once"));
        }
        rows.extend([
            ("time", format!("{:.2} s", self.seconds), "from the first publish to the last event's end"),
            ("throughput", format!("{}/s", thousands(self.events_per_second.round() as u64)), "events, end to end"),
            ("latency p50", latency(self.p50_us), "from publish to handled"),
            ("latency p99", latency(self.p99_us), "retries included"),
        ]);
        for (name, value, note) in rows {
            let _ = writeln!(text, "  {name:<17}{value:>11}   {note}");
        }
        if let Some(longest) = self.worst_airports.first() {
            let _ = writeln!(text, "\n  Worst mean delays, of airports with 20 departures or more\n");
            for (place, worst) in self.worst_airports.iter().enumerate() {
                let share = (worst.mean_delay_minutes / longest.mean_delay_minutes).clamp(0.0, 1.0);
                let bar = "█".repeat((share * 30.0).round() as usize);
                let _ = writeln!(
                    text,
                    "  {:>2}. {:<4}{:>6.1} min  {bar:<30}{:>7} departures",
                    place + 1,
                    worst.airport,
                    worst.mean_delay_minutes,
                    thousands(worst.flights)
                );
            }
        }
        let verdict = match self.complaint() {
            None => "✓ every event accounted for, in order".to_owned(),
            Some(complaint) => format!("✗ {complaint}"),
        };
        let _ = writeln!(text, "\n  {verdict}\n");
        text
    }
}

/// With commas, as `20,000`.
pub(crate) fn thousands(number: u64) -> String {
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

fn latency(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(latency(950), "950 µs");
        assert_eq!(latency(12_340), "12.3 ms");
        assert_eq!(latency(12_340_000), "12.34 s");
    }

    fn whole() -> Summary {
        let worst = |airport: &str, mean_delay_minutes, flights| WorstAirport {
            airport: airport.to_owned(),
            mean_delay_minutes,
            flights,
        };
        Summary {
            published: 20_000,
            handled: 19_980,
            repeated: 0,
            retried: 246,
            dead_lettered: 20,
            order_violations: 0,
            seconds: 1.234,
            events_per_second: 16_207.4,
            p50_us: 43_210,
            p99_us: 1_234_500,
            worst_airports: vec![worst("ORD", 20.0, 1_234), worst("SFO", 10.0, 20)],
        }
    }

    #[test]
    fn a_person_can_read_it() {
        let bar = |length: usize| format!("{}{}", "█".repeat(length), " ".repeat(30 - length));
        let expected = format!(
            "
  20,000 departures through the bus, on Kafka at h:9092

  published             20,000   each acknowledged by the broker
  handled               19,980   the departures of each airport in their order
  retried                  246   failed attempts, made again while other airports went on
  dead-lettered             20   poison on purpose, set aside in flights.dead-letters
  order violations           0   looked for at every event
  time                  1.23 s   from the first publish to the last event's end
  throughput          16,207/s   events, end to end
  latency p50          43.2 ms   from publish to handled
  latency p99           1.23 s   retries included

  Worst mean delays, of airports with 20 departures or more

   1. ORD   20.0 min  {}  1,234 departures
   2. SFO   10.0 min  {}     20 departures

  ✓ every event accounted for, in order

",
            bar(30),
            bar(15)
        );
        assert_eq!(whole().to_text("Kafka at h:9092"), expected);
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(whole().complaint(), None);
        let wrong = Summary { handled: 18_000, order_violations: 3, repeated: 7, ..whole() };
        assert_eq!(wrong.complaint().unwrap(), "1,980 events are missing, 3 were handled out of order");
        let text = wrong.to_text("Kafka");
        assert!(text.ends_with("\n  ✗ 1,980 events are missing, 3 were handled out of order\n\n"), "{text}");
        assert!(text.contains("  handled again              7   delivery is at least once\n"), "{text}");
        assert!(Summary { dead_lettered: 21, ..whole() }.complaint().is_some());
    }
}
