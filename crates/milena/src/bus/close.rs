//! Closing a bus: once, whoever asks and however often, by the nearest deadline that anybody named.
//!
//! The work is a task of its own, so a caller that goes away leaves it running, and one that comes later waits for the
//! same report.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::{Bus, Inner};
use crate::subscription::{CloseReport, LONGEST_CLOSE};

/// The part of a close's time by which all is over, so that whoever waits hears of it in time.
const WORKING_SHARE: f64 = 0.95;

/// A deadline that may come nearer.
#[derive(Debug, Clone)]
pub(crate) struct Deadline(watch::Receiver<Instant>);

impl Deadline {
    /// Does `work`, which is told how much time is left, and told again when that is less.
    pub(crate) async fn hurry<F: Future>(&mut self, mut work: impl FnMut(Duration) -> F) -> F::Output {
        loop {
            let left = self.0.borrow_and_update().saturating_duration_since(Instant::now());
            tokio::select! {
                biased;
                done = work(left) => return done,
                Ok(()) = self.0.changed() => {}
            }
        }
    }
}

/// The close of a bus, once it has begun.
#[derive(Debug, Default)]
pub(super) struct Closing(Mutex<Option<Begun>>);

#[derive(Debug)]
struct Begun {
    deadline: watch::Sender<Instant>,
    report: watch::Receiver<Option<CloseReport>>,
}

impl Closing {
    /// Begins to close, or brings the close forward that has begun.
    fn begin(&self, inner: &Arc<Inner>, by: Instant) -> watch::Receiver<Option<CloseReport>> {
        let mut begun = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Begun { deadline, report }) = &*begun {
            deadline.send_if_modified(|known| {
                let is_nearer = by < *known;
                *known = by.min(*known);
                is_nearer
            });
            return report.clone();
        }
        let (deadline, told) = watch::channel(by);
        let (reported, report) = watch::channel(None);
        let inner = Arc::clone(inner);
        tokio::spawn(async move {
            let report = carry_out(inner, Deadline(told)).await;
            reported.send_replace(Some(report));
        });
        *begun = Some(Begun { deadline, report: report.clone() });
        report
    }
}

impl Bus {
    /// Closes the bus: every subscription stops fetching, finishes what was begun, commits and leaves its group; then
    /// what was published is flushed and the connections are closed. All within `deadline`. What was published and not
    /// fetched yet stays in its topic, for the next start.
    ///
    /// Of several calls the earliest deadline holds, and each returns the same report, also when all is closed already.
    /// It tells of every subscription that the bus has had, those too that were closed, or had stopped, before: what one
    /// of them left is in it, unless another has read the same topics in the same group since.
    ///
    /// # Cancel safety
    /// Dropped half-way, it goes on in the background.
    pub async fn close(&self, deadline: Duration) -> CloseReport {
        let (now, limit) = (Instant::now(), deadline.min(LONGEST_CLOSE));
        let mut report = self.0.closing.begin(&self.0, now + limit.mul_f64(WORKING_SHARE));
        match timeout_at(now + limit, report.wait_for(Option::is_some)).await {
            Ok(Ok(report)) => report.unwrap_or_default(),
            // No report by the deadline, or none at all: whatever runs is not known to have ended.
            _ => CloseReport { unclosed: self.0.registry.running().max(1), ..CloseReport::default() },
        }
    }
}

async fn carry_out(inner: Arc<Inner>, mut deadline: Deadline) -> CloseReport {
    let mut report = inner.registry.close_all(&deadline).await;
    for producer in [Some(&inner.producer), inner.dead_letters.producer()].into_iter().flatten() {
        let before = producer.metrics();
        let _ = deadline.hurry(|left| producer.close(left)).await;
        let after = producer.metrics();
        let count = |after: u64, before: u64| usize::try_from(after - before).unwrap_or(usize::MAX);
        report.failed += count(after.records_failed, before.records_failed);
        report.unconfirmed += count(after.records_possibly_written, before.records_possibly_written);
    }
    let client = deadline.hurry(|left| inner.client.close(left)).await;
    if !client.clean {
        tracing::warn!(aborted = ?client.aborted, "the client did not close within the deadline");
    }
    report
}
