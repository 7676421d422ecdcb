//! The one task of a connection: reads replies and runs their handlers, finishes writes that a sender could not, keeps
//! the time limits. Runs nothing of the user's, and no codec beyond a header.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::Bytes;
use milena_protocol::frame::decode_response_header;
use tokio::time::{Instant, Sleep, sleep_until};

use super::error::{CloseReason, RequestError};
use super::frame::ReplyFrame;
use super::reader::FrameReader;
use super::state::{Pending, Shared};
use crate::throttle;

/// Replies handled before other tasks get a turn.
const REPLIES_PER_TURN: usize = 64;

pub(super) struct ConnectionTask {
    shared: Arc<Shared>,
    reader: FrameReader,
    // Made at the first turn, by the runtime that runs the task.
    timer: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl ConnectionTask {
    pub(super) fn new(shared: Arc<Shared>, reader: FrameReader) -> Self {
        Self { shared, reader, timer: None, ended: false }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        self.shared.counters.task_polls.fetch_add(1, Relaxed);
        self.shared.state().note_task(cx.waker());
        if let Err(reason) = self.read(cx) {
            return Poll::Ready(reason);
        }
        if let Err(reason) = self.shared.poll_write(cx) {
            return Poll::Ready(reason);
        }
        self.complete_written();
        self.keep_time(cx)
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        for _ in 0..REPLIES_PER_TURN {
            let trust = self.shared.state().trust;
            match self.reader.poll_frame(cx, trust) {
                Poll::Ready(frame) => self.dispatch(frame?)?,
                Poll::Pending => return Ok(()),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Matches a reply with the oldest request that awaits one, and lets its handler have it.
    fn dispatch(&self, mut frame: Bytes) -> Result<(), CloseReason> {
        let now = Instant::now();
        let pending = {
            let mut state = self.shared.state();
            state.last_used = now;
            let front = state.pending.iter().find(|pending| pending.expects_reply);
            let front = front.ok_or(CloseReason::Unsolicited)?;
            // An answer to what has not been sent is none.
            if !state.begun(front) {
                return Err(CloseReason::Unsolicited);
            }
            let expected = front.correlation_id();
            let found = decode_response_header(&mut frame, front.api_key, front.api_version)
                .map_err(CloseReason::Undecodable)?;
            if found != expected {
                return Err(CloseReason::CorrelationMismatch { expected, found });
            }
            state.take_awaiting_reply().expect("its number was just compared")
        };
        if let Some(throttle) = throttle::leading(pending.api_key, pending.api_version, &frame) {
            self.shared.mute_until(now + throttle);
        }
        complete(pending, frame, now);
        Ok(())
    }

    fn complete_written(&self) {
        loop {
            // The lock is gone before the handler runs.
            let Some(pending) = self.shared.state().take_written() else { return };
            complete(pending, Bytes::new(), Instant::now());
        }
    }

    /// Closes for what is late or idle, else sets the timer to the next moment at which something could be.
    fn keep_time(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        loop {
            let wake_at = {
                let now = Instant::now();
                let mut state = self.shared.state();
                if let Some(late) = state.pending.iter().position(|pending| pending.deadline <= now) {
                    let written = state.begun(&state.pending[late]);
                    let late = state.pending.remove(late).expect("its index was just found");
                    // Closed before the handler hears of it: it must not be able to submit here again.
                    let reason = CloseReason::RequestTimedOut(late.api_key);
                    state.closing.get_or_insert_with(|| Arc::new(reason));
                    drop(state);
                    self.time_out(late, written);
                    continue;
                }
                if let Some(reason) = &state.closing {
                    // `end` keeps the stored reason; what is passed on here is only a stand-in for it.
                    tracing::trace!(%reason, "closing");
                    return Poll::Ready(CloseReason::Closed);
                }
                if state.draining && !state.has_unwritten() && !state.pending.iter().any(Pending::is_awaited) {
                    return Poll::Ready(CloseReason::Closed);
                }
                let unmuted = state.muted_until.filter(|until| now < *until);
                if unmuted.is_none() && state.muted_until.take().is_some() && state.has_unwritten() {
                    // The throttle ended during this turn, after its write.
                    cx.waker().wake_by_ref();
                }
                let idle = state.last_used + self.shared.config.max_idle;
                if state.pending.is_empty() && idle <= now && unmuted.is_none() {
                    return Poll::Ready(CloseReason::Idle(self.shared.config.max_idle));
                }
                let due = state.pending.iter().map(|pending| pending.deadline).min();
                let due = match (due, unmuted) {
                    (Some(due), Some(until)) => due.min(until),
                    (Some(due), None) => due,
                    (None, until) => until.unwrap_or(idle),
                };
                // A timer that fires too soon only looks again; resetting it at every reply would cost more.
                let wake_at = state.armed.filter(|armed| now < *armed && *armed <= due).unwrap_or(due);
                state.armed = Some(wake_at);
                wake_at
            };
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(wake_at)));
            if timer.deadline() != wake_at || timer.is_elapsed() {
                timer.as_mut().reset(wake_at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if let Err(reason) = self.shared.poll_write(cx) {
                return Poll::Ready(reason);
            }
        }
    }

    fn time_out(&self, late: Pending, written: bool) {
        let (api, timeout) = (late.api_key, late.timeout);
        late.complete(Err(RequestError::TimedOut { api, address: self.shared.address.clone(), timeout, written }));
    }
}

fn complete(pending: Pending, body: Bytes, now: Instant) {
    let elapsed = now.saturating_duration_since(pending.submitted);
    let api_version = pending.api_version;
    pending.complete(Ok(ReplyFrame { body, api_version, elapsed }));
}

impl Future for ConnectionTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Poll::Ready(reason) = self.turn(cx) else { return Poll::Pending };
        self.ended = true;
        self.shared.end(reason);
        Poll::Ready(())
    }
}

impl Drop for ConnectionTask {
    /// A task that is aborted, or dropped with its runtime, still gives every pending request its outcome.
    fn drop(&mut self) {
        if !self.ended {
            self.shared.end(CloseReason::RuntimeEnded);
        }
    }
}
