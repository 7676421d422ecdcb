//! From a user's async function to something that can be given any record.
//!
//! A handler's argument says what it wants: an event, a [`Delivery`] of one, or the bare [`Envelope`]. What it returns
//! says how it went. Neither mentions Kafka.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use crate::delivery::{Cancellation, Context, Delivery};
use crate::envelope::Envelope;
use crate::event::Event;
use crate::policy::Failure;
use crate::record::RawRecord;
use crate::topic::TopicDeclaration;

/// What a handler may fail with.
pub type HandlerError = Box<dyn Error + Send + Sync>;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// An argument that a handler can take: an [`Event`], a [`Delivery`] of one, an [`Envelope`], or a `Delivery` of that.
#[diagnostic::on_unimplemented(
    message = "a handler can't take `{Self}`",
    note = "take an event (a type that derives `milena::Event`), `Delivery<Event>`, `Envelope` or `Delivery<Envelope>`"
)]
pub trait FromDelivery: Sized + Send + 'static {
    /// The event type it wants; `None` for any.
    #[doc(hidden)]
    const EVENT_TYPE: Option<&'static str>;
    /// The topic it comes from; `None` if the subscription must say.
    #[doc(hidden)]
    fn declaration() -> Option<TopicDeclaration>;
    #[doc(hidden)]
    fn from_delivery(delivery: Delivery<()>) -> Result<Self, serde_json::Error>;
}

impl<E: Event> FromDelivery for E {
    const EVENT_TYPE: Option<&'static str> = Some(E::TYPE);

    fn declaration() -> Option<TopicDeclaration> {
        Some(E::topic())
    }

    fn from_delivery(delivery: Delivery<()>) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(delivery.envelope().payload())
    }
}

impl<E: Event> FromDelivery for Delivery<E> {
    const EVENT_TYPE: Option<&'static str> = Some(E::TYPE);

    fn declaration() -> Option<TopicDeclaration> {
        Some(E::topic())
    }

    fn from_delivery(delivery: Delivery<()>) -> Result<Self, serde_json::Error> {
        let event = serde_json::from_slice(delivery.envelope().payload())?;
        Ok(delivery.with_event(event))
    }
}

impl FromDelivery for Envelope {
    const EVENT_TYPE: Option<&'static str> = None;

    fn declaration() -> Option<TopicDeclaration> {
        None
    }

    fn from_delivery(delivery: Delivery<()>) -> Result<Self, serde_json::Error> {
        Ok(delivery.envelope().clone())
    }
}

impl FromDelivery for Delivery<Envelope> {
    const EVENT_TYPE: Option<&'static str> = None;

    fn declaration() -> Option<TopicDeclaration> {
        None
    }

    fn from_delivery(delivery: Delivery<()>) -> Result<Self, serde_json::Error> {
        let envelope = delivery.envelope().clone();
        Ok(delivery.with_event(envelope))
    }
}

/// What a handler may return: nothing, or a `Result` whose error decides nothing by itself; the
/// [`FailurePolicy`](crate::FailurePolicy) does.
pub trait IntoOutcome: Send + 'static {
    #[doc(hidden)]
    fn into_outcome(self) -> Result<(), HandlerError>;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Result<(), HandlerError> {
        Ok(())
    }
}

impl<E: Into<HandlerError> + Send + 'static> IntoOutcome for Result<(), E> {
    fn into_outcome(self) -> Result<(), HandlerError> {
        self.map_err(Into::into)
    }
}

type ErasedHandler = Arc<dyn Fn(Context) -> BoxFuture<Result<(), Failure>> + Send + Sync>;

/// What a subscription does with an event of a type that it has no handler for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownTypes {
    /// Pass over it: the topic carries types that this subscription does not care for. Counted in its status.
    #[default]
    Skip,
    /// Treat it as a failure that no retry can help: dead letter or stop, as the policy says.
    Fail,
}

/// Which handler gets which event.
#[derive(Clone, Default)]
pub(crate) struct Routes {
    by_type: BTreeMap<&'static str, ErasedHandler>,
    any: Option<ErasedHandler>,
    pub(crate) unknown: UnknownTypes,
}

/// What became of one attempt.
#[derive(Debug)]
pub(crate) enum Handled {
    Done,
    /// Nobody wants events of this type.
    Skipped,
}

impl Routes {
    /// Adds a handler. `Err` names the event type that has one already.
    pub(crate) fn add<A, F, Fut>(&mut self, handler: F) -> Result<(), &'static str>
    where
        A: FromDelivery,
        F: Fn(A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let erased: ErasedHandler = Arc::new(move |context| {
            let handler = Arc::clone(&handler);
            Box::pin(async move {
                let argument = A::from_delivery(Delivery::new((), context)).map_err(Failure::payload)?;
                handler(argument).await.into_outcome().map_err(Failure::handler)
            })
        });
        let is_taken = match A::EVENT_TYPE {
            Some(event_type) => self.by_type.insert(event_type, erased).is_some(),
            None => self.any.replace(erased).is_some(),
        };
        if is_taken { Err(A::EVENT_TYPE.unwrap_or("any type")) } else { Ok(()) }
    }

    /// Handles one record once. Never panics: a panic of the handler is a failure like any other.
    pub(crate) async fn handle(&self, attempt: Attempt) -> Result<Handled, Failure> {
        let record = &attempt.record;
        let envelope = Envelope::decode(record.key.as_deref(), record.value.as_ref(), &record.headers)
            .map_err(Failure::envelope)?;
        let Some(handler) = self.by_type.get(envelope.event_type()).or(self.any.as_ref()) else {
            return match self.unknown {
                UnknownTypes::Skip => Ok(Handled::Skipped),
                UnknownTypes::Fail => Err(Failure::unknown_type(envelope.event_type())),
            };
        };
        // The user's function is called inside this future, so a panic before its first await is caught as well.
        let handled = handler(attempt.into_context(envelope));
        match catch_panic(handled).await {
            Ok(result) => result.map(|()| Handled::Done),
            Err(panic) => {
                let failure = Failure::panic(panic.as_ref());
                discard(panic);
                Err(failure)
            }
        }
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types: Vec<_> = self.by_type.keys().collect();
        f.debug_struct("Routes").field("types", &types).field("any", &self.any.is_some()).finish()
    }
}

/// One attempt to handle a record, before anything of it is decoded.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) record: Arc<RawRecord>,
    pub(crate) attempt: u32,
    pub(crate) epoch: u64,
    pub(crate) cancellation: Cancellation,
}

impl Attempt {
    fn into_context(self, envelope: Envelope) -> Context {
        Context {
            record: self.record,
            envelope: Arc::new(envelope),
            attempt: self.attempt,
            epoch: self.epoch,
            cancellation: self.cancellation,
        }
    }
}

/// Drops what a panic carried. That is the handler's too, and may panic in its turn.
fn discard(payload: Box<dyn std::any::Any + Send>) {
    if let Err(again) = std::panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // Dropping that one could go on for ever.
        std::mem::forget(again);
    }
}

/// Awaits a future, turning a panic in it into an error.
///
/// The future is dropped right after a panic and nothing it owned is looked at again, hence `AssertUnwindSafe`.
pub(crate) async fn catch_panic<T>(mut future: BoxFuture<T>) -> Result<T, Box<dyn std::any::Any + Send>> {
    std::future::poll_fn(|context| match std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}
