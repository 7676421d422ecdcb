//! Our messages against the `kafka-protocol` crate, which was written by others from the same schemas: for every
//! message and version that both know, the same value must be the same bytes, both ways. What it lacks, and why, is
//! told in `generated/mod.rs`.

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, Encodable};
use milena_protocol::{
    ErrorCode, GroupId, Message, NodeId, ProducerId, StrBytes, TopicName, TransactionalId, Uuid, VersionRange,
};

use crate::{
    generated,
    laws::for_random_bytes,
    random::{Random, Source},
};

/// The same value in the types of the oracle.
pub(crate) trait Theirs {
    type Theirs;

    fn theirs(&self) -> Self::Theirs;
}

fn agrees<M>()
where
    M: Message + Random + Theirs,
    M::Theirs: Encodable + Decodable + PartialEq + std::fmt::Debug + kafka_protocol::protocol::Message,
{
    let theirs = <M::Theirs as kafka_protocol::protocol::Message>::VERSIONS;
    let both = M::VERSIONS.intersect(VersionRange::new(theirs.min, theirs.max)).expect("both know some version");
    for version in both.min..=both.max {
        for_random_bytes(48, |bytes| {
            let value = M::random(&mut Source::new(version, bytes));
            let mut ours = BytesMut::new();
            value.encode(version, &mut ours).expect("a random value fits its version");
            let mut theirs = BytesMut::new();
            value.theirs().encode(&mut theirs, version).expect("the oracle writes it too");
            assert_eq!(ours, theirs, "{} {version}: {value:#?}", M::NAME);
            assert_eq!(M::decode_exact(version, theirs.freeze()).as_ref(), Ok(&value), "{} {version}", M::NAME);
            let mut ours = ours.freeze();
            let read = M::Theirs::decode(&mut ours, version).expect("the oracle reads what we wrote");
            assert_eq!(read, value.theirs(), "{} {version}", M::NAME);
            assert!(ours.is_empty());
        });
    }
}

macro_rules! agree {
    ($($module:ident $message:ident)*) => {$(
        #[test]
        fn $module() {
            agrees::<milena_protocol::messages::$message>();
        }
    )*};
}

generated::messages_of_the_oracle!(agree);

macro_rules! same {
    ($($type:ty)*) => {$(
        impl Theirs for $type {
            type Theirs = Self;

            fn theirs(&self) -> Self {
                self.clone()
            }
        }
    )*};
}

same!(bool i8 i16 u16 i32 i64 f64 Bytes);

macro_rules! newtypes {
    ($($ours:ty => $theirs:ty, $value:ident: $convert:expr;)*) => {$(
        impl Theirs for $ours {
            type Theirs = $theirs;

            fn theirs(&self) -> $theirs {
                let $value = self;
                $convert
            }
        }
    )*};
}

fn text(text: &str) -> kafka_protocol::protocol::StrBytes {
    text.to_owned().into()
}

newtypes! {
    StrBytes => kafka_protocol::protocol::StrBytes, value: text(value);
    TopicName => kafka_protocol::messages::TopicName, value: text(value).into();
    GroupId => kafka_protocol::messages::GroupId, value: text(value).into();
    TransactionalId => kafka_protocol::messages::TransactionalId, value: text(value).into();
    NodeId => kafka_protocol::messages::BrokerId, value: value.0.into();
    ProducerId => kafka_protocol::messages::ProducerId, value: value.0.into();
    ErrorCode => i16, value: value.0;
    Uuid => uuid::Uuid, value: uuid::Uuid::from_bytes(*value.as_bytes());
}

impl<T: Theirs> Theirs for Option<T> {
    type Theirs = Option<T::Theirs>;

    fn theirs(&self) -> Self::Theirs {
        self.as_ref().map(Theirs::theirs)
    }
}

impl<T: Theirs> Theirs for Vec<T> {
    type Theirs = Vec<T::Theirs>;

    fn theirs(&self) -> Self::Theirs {
        self.iter().map(Theirs::theirs).collect()
    }
}
