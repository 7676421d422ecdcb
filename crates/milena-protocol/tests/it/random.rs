//! Random values of messages, made from bytes: proptest shrinks those, and with them the value. Bytes that have run out
//! are zeros, which make the smallest value.

use bytes::Bytes;
use milena_protocol::{ErrorCode, GroupId, NodeId, ProducerId, StrBytes, TopicName, TransactionalId, Uuid};

pub(crate) struct Source<'a> {
    version: i16,
    bytes: &'a [u8],
    shape: Shape,
    depth: usize,
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    /// Everything by chance, arrays of up to three elements.
    Mixed,
    /// Arrays of `count` elements at `depth`, of one above it, of none below; strings and bytes empty.
    Long { depth: usize, count: usize },
}

/// A value that `version` can carry: fields that it lacks are at their default.
pub(crate) trait Random {
    fn random(g: &mut Source<'_>) -> Self;
}

impl<'a> Source<'a> {
    pub(crate) fn new(version: i16, bytes: &'a [u8]) -> Self {
        Self { version, bytes, shape: Shape::Mixed, depth: 0 }
    }

    /// Makes values whose size on the wire is as small as it can be for what they are in memory: `count` elements in
    /// every array at `depth` (1 is outermost).
    pub(crate) fn long(version: i16, depth: usize, count: usize) -> Self {
        Self { version, bytes: &[], shape: Shape::Long { depth, count }, depth: 0 }
    }

    pub(crate) fn version(&self) -> i16 {
        self.version
    }

    fn byte(&mut self) -> u8 {
        match self.bytes.split_first() {
            Some((first, rest)) => {
                self.bytes = rest;
                *first
            }
            None => 0,
        }
    }

    fn fixed<const N: usize>(&mut self) -> [u8; N] {
        // Half of the numbers are small, as those of real messages are.
        let kind = self.byte();
        let mut bytes = [0; N];
        let random = if kind.is_multiple_of(2) { 1 } else { N };
        for byte in bytes.iter_mut().rev().take(random) {
            *byte = self.byte();
        }
        bytes
    }

    fn length(&mut self) -> usize {
        match self.byte() {
            // Beyond one byte of varint.
            255 => 200,
            byte => usize::from(byte % 8),
        }
    }

    pub(crate) fn nullable<T>(&mut self, may_be_null: bool, value: fn(&mut Self) -> T) -> Option<T> {
        let is_null = match self.shape {
            Shape::Mixed => self.byte() % 4 == 3,
            Shape::Long { .. } => false,
        };
        if is_null && may_be_null { None } else { Some(value(self)) }
    }

    pub(crate) fn array<T: Random>(&mut self) -> Vec<T> {
        let count = match self.shape {
            Shape::Mixed => usize::from(self.byte() % 4),
            Shape::Long { depth, count } => match (self.depth + 1).cmp(&depth) {
                std::cmp::Ordering::Less => 1,
                std::cmp::Ordering::Equal => count,
                std::cmp::Ordering::Greater => 0,
            },
        };
        self.depth += 1;
        let values = (0..count).map(|_| T::random(self)).collect();
        self.depth -= 1;
        values
    }
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Random for $number {
            fn random(g: &mut Source<'_>) -> Self {
                Self::from_be_bytes(g.fixed())
            }
        }
    )*};
}

numbers!(i8 i16 u16 i32 i64);

impl Random for f64 {
    fn random(g: &mut Source<'_>) -> Self {
        // NaN is not equal to itself, so that no comparison would hold.
        let value = Self::from_be_bytes(g.fixed());
        if value.is_nan() { 0.5 } else { value }
    }
}

impl Random for bool {
    fn random(g: &mut Source<'_>) -> Self {
        g.byte() % 2 == 1
    }
}

impl Random for Uuid {
    fn random(g: &mut Source<'_>) -> Self {
        Self::from_bytes(g.fixed())
    }
}

impl Random for Bytes {
    fn random(g: &mut Source<'_>) -> Self {
        let length = g.length();
        (0..length).map(|_| g.byte()).collect()
    }
}

impl Random for StrBytes {
    fn random(g: &mut Source<'_>) -> Self {
        let length = g.length();
        let text: String = (0..length).map(|_| char::from(g.byte())).collect();
        text.into()
    }
}

macro_rules! wrappers {
    ($($wrapper:ident)*) => {$(
        impl Random for $wrapper {
            fn random(g: &mut Source<'_>) -> Self {
                Self(Random::random(g))
            }
        }
    )*};
}

wrappers!(ErrorCode GroupId NodeId ProducerId TopicName TransactionalId);
