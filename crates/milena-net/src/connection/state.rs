//! What the handles of a connection and its task share. Two locks, never held across an await nor while a handler runs:
//! `state` (short, taken by everyone) and `wire` (only ever tried, held while writing). Lock order: wire, then state.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use milena_core::handshake::NegotiatedVersions;
use milena_protocol::frame::{LENGTH_PREFIX, encode_request_header};
use milena_protocol::{ApiKey, EncodeError};
use tokio::io::AsyncWrite;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::ConnectionConfig;
use super::error::{CloseReason, RequestError};
use super::frame::{Permit, Rejected, ReplyFrame, RequestFrame, ResponseHandler};
use super::reader::Trust;
use crate::address::BrokerAddress;

/// Slices handed to one `writev`: enough for a wave of batches, far below the system's limit of 1,024.
const MAX_SLICES: usize = 64;
/// Time limits are cut to this, so that no sum of instants can overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) struct Shared {
    pub(super) address: BrokerAddress,
    pub(super) config: ConnectionConfig,
    pub(super) versions: OnceLock<Arc<NegotiatedVersions>>,
    pub(super) permits: Arc<Semaphore>,
    pub(super) ended: Notify,
    pub(super) counters: Counters,
    state: Mutex<State>,
    wire: Mutex<Wire>,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) frames_written: AtomicU64,
    pub(super) write_calls: AtomicU64,
    pub(super) task_polls: AtomicU64,
}

pub(super) struct State {
    /// Accepted frames of which no byte has been written.
    outbox: VecDeque<OutFrame>,
    /// Accepted requests without an outcome, in the order of their frames.
    pub(super) pending: VecDeque<Pending>,
    /// Requests accepted so far; the next one's number.
    accepted: u64,
    /// Frames whose first byte may have been written, and frames written whole.
    begun: u64,
    written: u64,
    /// Set once; nothing is accepted from then on.
    pub(super) closing: Option<Arc<CloseReason>>,
    /// Nothing new is accepted; the connection closes when nothing is pending.
    pub(super) draining: bool,
    pub(super) ended: bool,
    pub(super) muted_until: Option<Instant>,
    pub(super) trust: Trust,
    pub(super) last_used: Instant,
    /// When the task's timer fires next; a request that is due sooner wakes the task.
    pub(super) armed: Option<Instant>,
    task: Option<Waker>,
}

struct OutFrame {
    head: Bytes,
    body: Vec<Bytes>,
}

pub(super) struct Pending {
    number: u64,
    pub(super) api_key: ApiKey,
    pub(super) api_version: i16,
    pub(super) submitted: Instant,
    pub(super) timeout: Duration,
    pub(super) deadline: Instant,
    pub(super) expects_reply: bool,
    // Absent during the handshake, which is alone on the connection.
    permit: Option<Permit>,
    handler: Box<dyn ResponseHandler>,
}

struct Wire {
    // Absent once the connection has ended, so that the socket closes though handles remain.
    writer: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// What is left of the frames that have been begun.
    parts: VecDeque<Bytes>,
    /// Bytes left of each of those frames.
    frames: VecDeque<usize>,
}

pub(super) fn correlation_id(number: u64) -> i32 {
    (number & 0x7fff_ffff) as i32
}

impl Pending {
    pub(super) fn correlation_id(&self) -> i32 {
        correlation_id(self.number)
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.handler.is_awaited()
    }

    /// Gives the permit back, then calls the handler: it may use the permit at once.
    pub(super) fn complete(self, outcome: Result<ReplyFrame, RequestError>) {
        drop(self.permit);
        self.handler.handle(outcome);
    }
}

impl State {
    /// Whether a byte of the request may have reached the broker.
    pub(super) fn begun(&self, pending: &Pending) -> bool {
        pending.number < self.begun
    }

    pub(super) fn is_muted(&self, now: Instant) -> bool {
        self.muted_until.is_some_and(|until| now < until)
    }

    pub(super) fn has_unwritten(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Why nothing more is accepted, if so.
    fn refusal(&self) -> Option<Arc<CloseReason>> {
        match &self.closing {
            Some(reason) => Some(Arc::clone(reason)),
            None => self.draining.then(|| Arc::new(CloseReason::Closed)),
        }
    }

    /// The oldest request that waits for a reply.
    pub(super) fn take_awaiting_reply(&mut self) -> Option<Pending> {
        let index = self.pending.iter().position(|pending| pending.expects_reply)?;
        self.pending.remove(index)
    }

    /// A request without reply whose last byte has been written.
    pub(super) fn take_written(&mut self) -> Option<Pending> {
        let index = self.pending.iter().position(|pending| !pending.expects_reply && pending.number < self.written)?;
        self.pending.remove(index)
    }

    pub(super) fn note_task(&mut self, waker: &Waker) {
        match &mut self.task {
            Some(task) if task.will_wake(waker) => {}
            task => *task = Some(waker.clone()),
        }
    }
}

impl Shared {
    pub(super) fn new(
        address: BrokerAddress,
        writer: Box<dyn AsyncWrite + Send + Unpin>,
        config: ConnectionConfig,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(config.max_in_flight));
        Self {
            address,
            config,
            versions: OnceLock::new(),
            permits,
            ended: Notify::new(),
            counters: Counters::default(),
            state: Mutex::new(State {
                outbox: VecDeque::new(),
                pending: VecDeque::new(),
                accepted: 0,
                begun: 0,
                written: 0,
                closing: None,
                draining: false,
                ended: false,
                muted_until: None,
                trust: Trust::Handshake,
                last_used: Instant::now(),
                armed: None,
                task: None,
            }),
            wire: Mutex::new(Wire { writer: Some(writer), parts: VecDeque::new(), frames: VecDeque::new() }),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code that holds this lock can panic")
    }

    pub(super) fn wake_task(&self) {
        let task = self.state().task.clone();
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Takes the request: from here on its frame is the connection's, and its handler will be called once.
    pub(super) fn submit(
        &self,
        permit: Option<Permit>,
        frame: RequestFrame,
        handler: Box<dyn ResponseHandler>,
    ) -> Result<(), Rejected> {
        let now = Instant::now();
        let timeout = frame.timeout.min(LONGEST);
        let wake = {
            let mut state = self.state();
            let number = state.accepted;
            let head = match state.refusal() {
                None => self.head(&frame, number),
                Some(reason) => {
                    let (api, address) = (frame.api_key, self.address.clone());
                    Err(RequestError::Disconnected { api, address, written: false, reason })
                }
            };
            let head = match head {
                Ok(head) => head,
                Err(error) => return Err(Rejected { error, frame, handler }),
            };
            // The limit starts when the broker's throttle ends: what may not be sent cannot be late.
            let start = state.muted_until.map_or(now, |until| until.max(now));
            let deadline = start + timeout;
            state.accepted += 1;
            state.last_used = now;
            state.outbox.push_back(OutFrame { head, body: frame.body });
            state.pending.push_back(Pending {
                number,
                api_key: frame.api_key,
                api_version: frame.api_version,
                submitted: now,
                timeout,
                deadline,
                expects_reply: frame.expects_reply,
                permit,
                handler,
            });
            state.armed.is_none_or(|armed| deadline < armed)
        };
        self.write_in_place();
        if wake {
            self.wake_task();
        }
        Ok(())
    }

    /// Length prefix and header of a frame.
    fn head(&self, frame: &RequestFrame, number: u64) -> Result<Bytes, RequestError> {
        let refuse =
            |source| RequestError::Encode { api: frame.api_key, version: frame.api_version, source: Arc::new(source) };
        let mut head = BytesMut::with_capacity(64);
        head.put_i32(0);
        let client_id = self.config.client_id.as_deref();
        encode_request_header(&mut head, frame.api_key, frame.api_version, correlation_id(number), client_id)
            .map_err(refuse)?;
        let length = head.len() - LENGTH_PREFIX + frame.body.iter().map(Bytes::len).sum::<usize>();
        let prefix = i32::try_from(length).map_err(|_| refuse(EncodeError::TooLong { field: "frame", length }))?;
        head[..LENGTH_PREFIX].copy_from_slice(&prefix.to_be_bytes());
        Ok(head.freeze())
    }

    /// Writes what the stream takes, from the sending task. Whoever fails to get the wire may leave: its holder looks
    /// again after letting go.
    fn write_in_place(&self) {
        loop {
            let Ok(mut wire) = self.wire.try_lock() else { return };
            let outcome = wire.flush(self, &mut Context::from_waker(Waker::noop()));
            drop(wire);
            match outcome {
                Poll::Ready(Ok(())) => {}
                // Ours was the last waker the stream was given, and it wakes nobody: the task must poll again with its
                // own. That also serves a task whose poll failed to get the wire while we held it.
                Poll::Pending => return self.wake_task(),
                Poll::Ready(Err(error)) => return self.close(CloseReason::Io(error)),
            }
            let state = self.state();
            if !state.has_unwritten() || state.is_muted(Instant::now()) {
                return;
            }
        }
    }

    /// Writes what the stream takes, from the connection's task, which is woken when it takes more.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        loop {
            // A holder is a sender: it sees to what is unwritten, or wakes us.
            let Ok(mut wire) = self.wire.try_lock() else { return Ok(()) };
            let outcome = wire.flush(self, cx);
            drop(wire);
            match outcome {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Err(CloseReason::Io(error)),
                Poll::Pending => return Ok(()),
            }
            // A sender that came while the wire was ours has left its frame to us, and wakes nobody.
            let state = self.state();
            if !state.has_unwritten() || state.is_muted(Instant::now()) {
                return Ok(());
            }
        }
    }

    /// Refuses what comes and lets the task end; the first reason stays.
    pub(super) fn close(&self, reason: CloseReason) {
        self.state().closing.get_or_insert_with(|| Arc::new(reason));
        self.permits.close();
        self.wake_task();
    }

    /// Refuses what comes; the task ends when every accepted request has its outcome.
    pub(super) fn drain(&self) {
        self.state().draining = true;
        self.permits.close();
        self.wake_task();
    }

    /// Holds back what is not yet written until `until`, and lengthens every running time limit by as much (KIP-219).
    pub(super) fn mute_until(&self, until: Instant) {
        let mut state = self.state();
        let from = state.muted_until.map_or_else(Instant::now, |muted| muted.max(Instant::now()));
        let Some(longer) = until.checked_duration_since(from) else { return };
        for pending in &mut state.pending {
            pending.deadline += longer;
        }
        state.muted_until = Some(until);
        drop(state);
        self.wake_task();
    }

    /// The end, from the task: closes the socket and gives every pending request its outcome.
    pub(super) fn end(&self, reason: CloseReason) {
        let (pending, reason, begun) = {
            let mut state = self.state();
            let reason = Arc::clone(state.closing.get_or_insert_with(|| Arc::new(reason)));
            state.outbox.clear();
            (std::mem::take(&mut state.pending), reason, state.begun)
        };
        self.permits.close();
        // A sender may hold the wire for the length of one system call; it finds the outbox empty and lets go.
        if let Ok(mut wire) = self.wire.lock() {
            *wire = Wire { writer: None, parts: VecDeque::new(), frames: VecDeque::new() };
        }
        for pending in pending {
            let error = RequestError::Disconnected {
                api: pending.api_key,
                address: self.address.clone(),
                written: pending.number < begun,
                reason: Arc::clone(&reason),
            };
            pending.complete(Err(error));
        }
        tracing::debug!(address = %self.address, reason = %reason, "connection ended");
        self.state().ended = true;
        self.ended.notify_waiters();
    }
}

impl Wire {
    /// Writes until nothing is left (`Ready`) or the stream takes no more.
    fn flush(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.begin_frames(shared);
            let Some(writer) = &mut self.writer else { return Poll::Ready(Ok(())) };
            if self.parts.is_empty() {
                return std::pin::Pin::new(writer).poll_flush(cx);
            }
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let filled = self.parts.iter().zip(&mut slices).map(|(part, slice)| *slice = IoSlice::new(part)).count();
            shared.counters.write_calls.fetch_add(1, Relaxed);
            match std::pin::Pin::new(writer).poll_write_vectored(cx, &slices[..filled]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => self.advance(written, shared),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Takes frames over from the outbox, as far as one write can carry them; from here on they count as begun.
    fn begin_frames(&mut self, shared: &Shared) {
        let mut state = shared.state();
        if state.outbox.is_empty() || state.is_muted(Instant::now()) {
            return;
        }
        while self.parts.len() < MAX_SLICES {
            let Some(frame) = state.outbox.pop_front() else { return };
            state.begun += 1;
            let parts = std::iter::once(frame.head).chain(frame.body).filter(|part| !part.is_empty());
            let before = self.parts.len();
            self.parts.extend(parts);
            self.frames.push_back(self.parts.iter().skip(before).map(Bytes::len).sum());
        }
    }

    fn advance(&mut self, mut written: usize, shared: &Shared) {
        let mut left = written;
        let mut whole = 0;
        while let Some(frame) = self.frames.front_mut() {
            if *frame > left {
                *frame -= left;
                break;
            }
            left -= *frame;
            whole += 1;
            self.frames.pop_front();
        }
        while let Some(part) = self.parts.front_mut() {
            if part.len() > written {
                part.advance(written);
                break;
            }
            written -= part.len();
            self.parts.pop_front();
        }
        if whole > 0 {
            shared.counters.frames_written.fetch_add(whole, Relaxed);
            let mut state = shared.state();
            state.written += whole;
            if state.pending.iter().any(|pending| !pending.expects_reply && pending.number < state.written) {
                drop(state);
                shared.wake_task();
            }
        }
    }
}
