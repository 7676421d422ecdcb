//! The expansion of `#[derive(Event)]`: reads the attribute, checks it, writes one impl.
//!
//! Every mistake is an error at the token that is wrong, saying what to write instead. Nothing is guessed from names.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Fields, Ident, LitInt, LitStr, Member, Result};

/// Kafka's limit on the length of a topic name.
const LONGEST_TOPIC_NAME: usize = 249;

/// What `#[event(...)]` said, each value beside the span that a complaint about it should point to.
#[derive(Default)]
struct Attributes {
    event_type: Option<LitStr>,
    topic: Option<LitStr>,
    aggregate: Option<Member>,
    version: Option<(i64, Span)>,
    partitions: Option<(i64, Span)>,
    replication: Option<(i64, Span)>,
}

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let fields = named_or_tuple_fields(input)?;
    let (attributes, span) = read_attributes(input)?;

    let event_type = required(attributes.event_type.as_ref(), span, "type = \"orders.placed\"")?;
    if event_type.value().trim().is_empty() {
        return Err(Error::new(event_type.span(), "an event type needs a name, such as \"orders.placed\""));
    }
    let topic = required(attributes.topic.as_ref(), span, "topic = \"orders\"")?;
    if let Some(complaint) = topic_complaint(&topic.value()) {
        return Err(Error::new(topic.span(), complaint));
    }
    let aggregate = required(attributes.aggregate.as_ref(), span, "aggregate = order_id")?;
    if !has_field(fields, aggregate) {
        let name = member_name(aggregate);
        let known: Vec<String> = fields.members().map(|member| format!("`{}`", member_name(&member))).collect();
        return Err(Error::new(
            aggregate.span(),
            format!("no field `{name}` to take the aggregate id from; this struct has {}", known.join(", ")),
        ));
    }

    let version = match attributes.version {
        None => 1,
        Some((version, _)) if version >= 1 => version,
        Some((_, span)) => return Err(Error::new(span, "an event's version is 1 or more")),
    };
    let partitions = at_least_one(attributes.partitions, i64::from(i32::MAX), "partitions")?;
    let partitions = partitions.map(|count| {
        let count = i32::try_from(count).expect("checked against i32::MAX above");
        quote!(.partitions(#count))
    });
    let replication = at_least_one(attributes.replication, i64::from(i16::MAX), "replication")?;
    let replication = replication.map(|count| {
        let count = i16::try_from(count).expect("checked against i16::MAX above");
        quote!(.replication(#count))
    });

    let name = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics ::milena::Event for #name #type_generics #where_clause {
            const TYPE: &'static str = #event_type;
            const VERSION: i64 = #version;
            const TOPIC: &'static str = #topic;

            fn aggregate_id(&self) -> ::std::borrow::Cow<'_, str> {
                ::milena::AggregateId::aggregate_id(&self.#aggregate)
            }

            fn topic() -> ::milena::TopicDeclaration {
                ::milena::TopicDeclaration::new(#topic) #partitions #replication
            }
        }
    })
}

fn named_or_tuple_fields(input: &DeriveInput) -> Result<&Fields> {
    match &input.data {
        Data::Struct(data) if !data.fields.is_empty() => Ok(&data.fields),
        Data::Struct(_) => Err(Error::new(
            input.ident.span(),
            "an event needs at least the field that holds its aggregate id; this struct has no fields",
        )),
        Data::Enum(_) => Err(Error::new(
            input.ident.span(),
            "Event is derived for structs: one struct per event type, each with its own `type = \"...\"`",
        )),
        Data::Union(_) => Err(Error::new(input.ident.span(), "Event is derived for structs, not for unions")),
    }
}

fn read_attributes(input: &DeriveInput) -> Result<(Attributes, Span)> {
    let mut attributes = Attributes::default();
    let mut span = None;
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("event")) {
        span.get_or_insert_with(|| attribute.span());
        attribute.parse_nested_meta(|meta| {
            let Some(key) = meta.path.get_ident().map(Ident::to_string) else {
                return Err(meta.error("a key of #[event(...)] is one word"));
            };
            match key.as_str() {
                "type" => once(&mut attributes.event_type, meta.value()?.parse()?, &meta),
                "topic" => once(&mut attributes.topic, meta.value()?.parse()?, &meta),
                "aggregate" => once(&mut attributes.aggregate, aggregate_member(&meta)?, &meta),
                "version" => once(&mut attributes.version, integer(&meta)?, &meta),
                "partitions" => once(&mut attributes.partitions, integer(&meta)?, &meta),
                "replication" => once(&mut attributes.replication, integer(&meta)?, &meta),
                unknown => Err(meta.error(format!(
                    "#[event(...)] has no key `{unknown}`; it knows type, topic, aggregate, version, partitions, replication"
                ))),
            }
        })?;
    }
    let span = span.ok_or_else(|| {
        Error::new(
            input.ident.span(),
            "an event says what it is: #[event(type = \"orders.placed\", topic = \"orders\", aggregate = order_id)]",
        )
    })?;
    Ok((attributes, span))
}

/// The field, written as a name (`order_id`), as a string (`"order_id"`) or, in a tuple struct, as an index (`0`).
fn aggregate_member(meta: &syn::meta::ParseNestedMeta<'_>) -> Result<Member> {
    let value = meta.value()?;
    if value.peek(LitStr) {
        return Ok(Member::Named(value.parse::<LitStr>()?.parse()?));
    }
    value.parse()
}

fn integer(meta: &syn::meta::ParseNestedMeta<'_>) -> Result<(i64, Span)> {
    let literal: LitInt = meta.value()?.parse()?;
    Ok((literal.base10_parse()?, literal.span()))
}

fn once<T>(slot: &mut Option<T>, value: T, meta: &syn::meta::ParseNestedMeta<'_>) -> Result<()> {
    if slot.replace(value).is_some() { Err(meta.error("said twice; say it once")) } else { Ok(()) }
}

fn required<'a, T>(value: Option<&'a T>, span: Span, example: &str) -> Result<&'a T> {
    value.ok_or_else(|| Error::new(span, format!("#[event(...)] needs `{example}`")))
}

fn at_least_one(value: Option<(i64, Span)>, most: i64, what: &str) -> Result<Option<i64>> {
    match value {
        None => Ok(None),
        Some((count, _)) if (1..=most).contains(&count) => Ok(Some(count)),
        Some((_, span)) => Err(Error::new(span, format!("{what} is between 1 and {most}"))),
    }
}

fn has_field(fields: &Fields, wanted: &Member) -> bool {
    fields.members().any(|member| member == *wanted)
}

fn member_name(member: &Member) -> String {
    match member {
        Member::Named(name) => name.to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    }
}

/// Kafka's exact rule (`Topic.validate`), so that an illegal name does not even compile.
fn topic_complaint(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("a topic name is not empty".to_owned());
    }
    if name == "." || name == ".." {
        return Some(format!("a topic can't be named {name:?}"));
    }
    if name.len() > LONGEST_TOPIC_NAME {
        return Some(format!("a topic name has at most {LONGEST_TOPIC_NAME} characters, this one has {}", name.len()));
    }
    let illegal = name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-'))?;
    Some(format!("{illegal:?} is not allowed in a topic name; use A-Z a-z 0-9 . _ -"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn complaint(source: &str) -> String {
        let input: DeriveInput = syn::parse_str(source).expect("the test's struct must parse");
        expand(&input).expect_err("this must not expand").to_string()
    }

    #[test]
    fn a_full_attribute_expands_to_one_impl_with_its_values() {
        let input: DeriveInput = syn::parse_str(
            r#"#[event(type = "orders.placed", version = 3, topic = "orders", aggregate = order_id, partitions = 6, replication = 2)]
               struct OrderPlaced { order_id: String }"#,
        )
        .unwrap();
        let written = expand(&input).unwrap().to_string();
        for part in [
            r#"TYPE : & 'static str = "orders.placed""#,
            "VERSION : i64 = 3i64",
            r#"TOPIC : & 'static str = "orders""#,
            "& self . order_id",
            ". partitions (6i32)",
            ". replication (2i16)",
        ] {
            assert!(written.contains(part), "{part} is missing in {written}");
        }
    }

    #[test]
    fn each_mistake_is_named_with_its_remedy() {
        let with = |attribute: &str| format!("#[event({attribute})] struct Placed {{ order_id: String, cents: u64 }}");
        for (source, expected) in [
            ("struct Placed { order_id: String }".to_owned(), "an event says what it is"),
            (with(r#"topic = "o", aggregate = order_id"#), "needs `type = \"orders.placed\"`"),
            (with(r#"type = "o", aggregate = order_id"#), "needs `topic = \"orders\"`"),
            (with(r#"type = "o", topic = "o""#), "needs `aggregate = order_id`"),
            (with(r#"type = " ", topic = "o", aggregate = order_id"#), "needs a name"),
            (with(r#"type = "o", topic = "o", aggregate = id"#), "no field `id`"),
            (with(r#"type = "o", topic = "bad topic", aggregate = order_id"#), "' ' is not allowed"),
            (with(r#"type = "o", topic = "bestellt-é", aggregate = order_id"#), "'é' is not allowed"),
            (with(r#"type = "o", topic = "..", aggregate = order_id"#), "can't be named"),
            (with(r#"type = "o", topic = "o", aggregate = order_id, version = 0"#), "1 or more"),
            (with(r#"type = "o", topic = "o", aggregate = order_id, partitions = 0"#), "between 1 and"),
            (with(r#"type = "o", topic = "o", aggregate = order_id, replication = 40000"#), "between 1 and"),
            (with(r#"type = "o", type = "p", topic = "o", aggregate = order_id"#), "said twice"),
            (with(r#"type = "o", topics = "o", aggregate = order_id"#), "no key `topics`"),
            ("#[event()] enum Placed { A }".to_owned(), "one struct per event type"),
            ("#[event()] struct Placed;".to_owned(), "no fields"),
        ] {
            let said = complaint(&source);
            assert!(said.contains(expected), "for {source}\nexpected {expected}\nbut it said {said}");
        }
    }

    #[test]
    fn the_aggregate_may_be_a_tuple_field_or_a_string() {
        for source in [
            r#"#[event(type = "o", topic = "o", aggregate = 1)] struct Placed(u64, String);"#,
            r#"#[event(type = "o", topic = "o", aggregate = "id")] struct Placed { id: String }"#,
        ] {
            let input: DeriveInput = syn::parse_str(source).unwrap();
            expand(&input).unwrap();
        }
    }
}
