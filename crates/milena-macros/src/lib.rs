//! Derive macros of the milena event bus.
//!
//! `#[derive(Event)]` is documented, and its misuse tested, where users meet it: in the crate `milena`.
#![forbid(unsafe_code)]

mod event;

use proc_macro::TokenStream;

/// Implements `milena::Event` for a struct, from its `#[event(...)]` attribute.
///
/// | key | meaning | default |
/// |---|---|---|
/// | `type = "orders.placed"` | name of the event type, stable for ever | required |
/// | `topic = "orders"` | topic that carries it, checked by Kafka's rule | required |
/// | `aggregate = order_id` | field whose value is the aggregate id, hence the record key | required |
/// | `version = 2` | schema version of the payload, 1 or more | `1` |
/// | `partitions = 12` | partitions of the topic when the bus creates it | the broker's default |
/// | `replication = 3` | replicas of the topic when the bus creates it | the broker's default |
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    event::expand(&input).unwrap_or_else(|error| error.to_compile_error()).into()
}
