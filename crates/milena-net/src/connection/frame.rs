//! What goes into a connection and what comes out: a request as ready-made bytes, a reply, and whoever waits for it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use milena_protocol::{ApiKey, Request};
use tokio::sync::OwnedSemaphorePermit;

use super::error::RequestError;

/// A request ready to be written. The connection adds length and header; the body is never copied.
#[derive(Debug)]
pub struct RequestFrame {
    /// Which API.
    pub api_key: ApiKey,
    /// Version in which the body is encoded.
    pub api_version: i16,
    /// The body, in parts that one vectored write joins.
    pub body: Vec<Bytes>,
    /// How long the answer may take, from the submission. Then the connection is closed.
    pub timeout: Duration,
    /// Whether the broker answers. Only Produce with acks=0 goes without.
    pub expects_reply: bool,
}

impl RequestFrame {
    /// Encodes `request` in `version`.
    ///
    /// # Errors
    /// [`RequestError::Encode`] when the version cannot carry what the request holds.
    pub fn encode<R: Request>(request: &R, version: i16, timeout: Duration) -> Result<Self, RequestError> {
        let mut body = BytesMut::new();
        request.encode(version, &mut body).map_err(|source| RequestError::Encode {
            api: R::API_KEY,
            version,
            source: Arc::new(source),
        })?;
        let body = vec![body.freeze()];
        Ok(Self { api_key: R::API_KEY, api_version: version, body, timeout, expects_reply: true })
    }
}

/// The answer to a request: its body, after the header.
#[derive(Debug)]
pub struct ReplyFrame {
    /// A slice of the received frame; empty for a request that expects no reply.
    pub body: Bytes,
    /// Version of the request, hence of the body.
    pub api_version: i16,
    /// From submission to answer.
    pub elapsed: Duration,
}

/// Whoever waits for a reply.
///
/// `handle` is called exactly once per accepted request, in the connection's own task: with the reply, or with the
/// reason why there will be none. It must be short and must not block: it delays every reply behind it. It may submit
/// further requests; the permit of the answered one has been given back. Closures are handlers too.
pub trait ResponseHandler: Send {
    /// Takes the outcome. A request without reply yields an empty body once its last byte has been written.
    fn handle(self: Box<Self>, reply: Result<ReplyFrame, RequestError>);

    /// Whether somebody still wants to know. A connection that drains does not wait for an answer to nobody.
    fn is_awaited(&self) -> bool {
        true
    }
}

impl<F> ResponseHandler for F
where
    F: FnOnce(Result<ReplyFrame, RequestError>) + Send,
{
    fn handle(self: Box<Self>, reply: Result<ReplyFrame, RequestError>) {
        self(reply);
    }
}

/// The right to one request in flight. It travels with the request and is given back when its reply is matched, before
/// the handler runs; dropping it unused gives it back at once.
#[derive(Debug)]
pub struct Permit(#[expect(dead_code, reason = "held for its drop")] pub(super) OwnedSemaphorePermit);

/// A request that the connection did not take; nothing of it was or will be written.
pub struct Rejected {
    /// Why, `written` being false.
    pub error: RequestError,
    /// The request, to be sent elsewhere.
    pub frame: RequestFrame,
    /// Its handler, which was not called.
    pub handler: Box<dyn ResponseHandler>,
}

impl fmt::Debug for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("error", &self.error).field("frame", &self.frame).finish_non_exhaustive()
    }
}
