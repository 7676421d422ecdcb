//! Sees that a shared runtime has stood still, as when handlers block all of its workers, and logs for how long. It can
//! prevent nothing: heartbeats and deadlines were late by then.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How often it looks: too seldom to cost anything, and the most by which a stall is told shorter than it was.
const EVERY: Duration = Duration::from_millis(500);

/// What is this late has been kept from running; a busy machine alone seldom does that.
const BOUND: Duration = Duration::from_secs(1);

/// Runs for as long as the client's tasks share a runtime with the application.
pub(crate) async fn watch() {
    loop {
        let due = Instant::now() + EVERY;
        sleep_until(due).await;
        let late = due.elapsed();
        if late >= BOUND {
            tracing::warn!(
                stalled_ms = u64::try_from(late.as_millis()).unwrap_or(u64::MAX),
                "the runtime ran none of the client's tasks for {late:.1?}, heartbeats included: block in \
                 tokio::task::spawn_blocking, or build the client with RuntimeChoice::Dedicated"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;

    /// Notes the lengths of stalls.
    #[derive(Clone, Default)]
    struct Lengths(Arc<Mutex<Vec<u64>>>);

    impl Visit for Lengths {
        fn record_u64(&mut self, field: &Field, value: u64) {
            if field.name() == "stalled_ms" {
                self.0.lock().expect("no panic holds it").push(value);
            }
        }

        fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
    }

    impl Subscriber for Lengths {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn event(&self, event: &Event<'_>) {
            event.record(&mut self.clone());
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_logged_with_its_length_and_a_short_delay_is_not() {
        let lengths = Lengths::default();
        let _here = tracing::subscriber::set_default(lengths.clone());
        let watching = tokio::spawn(watch());
        tokio::task::yield_now().await;
        // The clock goes on while nothing runs, as it does when a handler blocks.
        for pause in [EVERY + BOUND / 2, EVERY + Duration::from_secs(60), Duration::from_secs(1)] {
            tokio::time::advance(pause).await;
            tokio::task::yield_now().await;
        }
        watching.abort();
        assert_eq!(*lengths.0.lock().expect("no panic holds it"), [60_000]);
    }
}
