//! What a type must say to travel on the bus: its name, version, topic and aggregate.
//!
//! Holds no Kafka type and no codec beyond serde: a record is the envelope's business.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::topic::TopicDeclaration;

/// A typed event: something that happened to one aggregate.
///
/// Derive it. The payload is written and read as JSON by serde.
///
/// ```
/// use milena::Event;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(type = "orders.placed", version = 1, topic = "orders", aggregate = order_id, partitions = 6)]
/// struct OrderPlaced {
///     order_id: String,
///     cents: u64,
/// }
///
/// let event = OrderPlaced { order_id: "o-17".into(), cents: 1_250 };
/// assert_eq!(OrderPlaced::TYPE, "orders.placed");
/// assert_eq!(event.aggregate_id(), "o-17");
/// ```
///
/// A declaration that can't work does not compile. An illegal topic name:
///
/// ```compile_fail
/// #[derive(serde::Serialize, serde::Deserialize, milena::Event)]
/// #[event(type = "orders.placed", topic = "orders placed", aggregate = order_id)]
/// struct OrderPlaced { order_id: String }
/// ```
///
/// A field that does not exist:
///
/// ```compile_fail
/// #[derive(serde::Serialize, serde::Deserialize, milena::Event)]
/// #[event(type = "orders.placed", topic = "orders", aggregate = id)]
/// struct OrderPlaced { order_id: String }
/// ```
///
/// A field that can't name an aggregate:
///
/// ```compile_fail
/// #[derive(serde::Serialize, serde::Deserialize, milena::Event)]
/// #[event(type = "orders.placed", topic = "orders", aggregate = total)]
/// struct OrderPlaced { total: f64 }
/// ```
///
/// A missing declaration:
///
/// ```compile_fail
/// #[derive(serde::Serialize, serde::Deserialize, milena::Event)]
/// struct OrderPlaced { order_id: String }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    note = "add `#[derive(Serialize, Deserialize, milena::Event)]` and `#[event(type = \"...\", topic = \"...\", aggregate = field)]`"
)]
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Name of the event type, stable for ever: it is on the wire and decides which handler gets the event.
    const TYPE: &'static str;
    /// Schema version of the payload, 1 or more.
    const VERSION: i64;
    /// Topic that carries events of this type.
    const TOPIC: &'static str;

    /// Which aggregate this happened to. It becomes the record's key: events of one aggregate stay in order.
    fn aggregate_id(&self) -> Cow<'_, str>;

    /// The topic with the partitions and replicas that it is created with.
    fn topic() -> TopicDeclaration {
        TopicDeclaration::new(Self::TOPIC)
    }
}

/// A field that can name an aggregate: text, an integer or a UUID.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be an aggregate id",
    note = "use a string, an integer or a uuid; a float or a struct has no one text that stays the same"
)]
pub trait AggregateId {
    /// The id as text.
    fn aggregate_id(&self) -> Cow<'_, str>;
}

impl AggregateId for str {
    fn aggregate_id(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
}

impl AggregateId for String {
    fn aggregate_id(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
}

impl AggregateId for Cow<'_, str> {
    fn aggregate_id(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
}

impl<T: AggregateId + ?Sized> AggregateId for &T {
    fn aggregate_id(&self) -> Cow<'_, str> {
        (**self).aggregate_id()
    }
}

impl<T: AggregateId + ?Sized> AggregateId for Box<T> {
    fn aggregate_id(&self) -> Cow<'_, str> {
        (**self).aggregate_id()
    }
}

impl<T: AggregateId + ?Sized> AggregateId for Arc<T> {
    fn aggregate_id(&self) -> Cow<'_, str> {
        (**self).aggregate_id()
    }
}

macro_rules! by_display {
    ($($type:ty),*) => {$(
        impl AggregateId for $type {
            fn aggregate_id(&self) -> Cow<'_, str> {
                Cow::Owned(self.to_string())
            }
        }
    )*};
}

by_display!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, uuid::Uuid);
