//! Writes the fields of a message to a buffer.
//!
//! Like the reader it remembers the first thing that went wrong; [`Writer::finish`] then says so and leaves the buffer
//! as it was.

use bytes::{BufMut as _, BytesMut};

use super::Uuid;
use crate::{EncodeError, VersionRange, codec::Struct};

#[derive(Debug)]
pub(crate) struct Writer<'a> {
    buf: &'a mut BytesMut,
    start: usize,
    version: i16,
    flexible: bool,
    error: Option<EncodeError>,
}

impl<'a> Writer<'a> {
    /// `first_flexible` is the first version in the flexible encoding, `i16::MAX` if there is none.
    pub(crate) fn open(
        message: &'static str,
        supported: VersionRange,
        first_flexible: i16,
        version: i16,
        buf: &'a mut BytesMut,
    ) -> Result<Self, EncodeError> {
        if !supported.contains(version) {
            return Err(EncodeError::UnsupportedVersion { message, version, supported });
        }
        Ok(Self::new(version, version >= first_flexible, buf))
    }

    pub(crate) fn new(version: i16, flexible: bool, buf: &'a mut BytesMut) -> Self {
        let start = buf.len();
        Self { buf, start, version, flexible, error: None }
    }

    pub(crate) fn finish(self) -> Result<(), EncodeError> {
        match self.error {
            None => Ok(()),
            Some(error) => {
                self.buf.truncate(self.start);
                Err(error)
            }
        }
    }

    pub(crate) fn version(&self) -> i16 {
        self.version
    }

    #[cold]
    pub(crate) fn fail(&mut self, error: EncodeError) {
        self.error.get_or_insert(error);
    }

    /// A field that this version lacks and whose loss matters: it must be at its default.
    pub(crate) fn absent(&mut self, field: &'static str, is_default: bool) {
        if !is_default {
            self.fail(EncodeError::FieldNotInVersion { field, version: self.version });
        }
    }

    /// Fails if a field is null in a version in which it may not be.
    pub(crate) fn check_null(&mut self, field: &'static str, may_be_null: bool, is_null: bool) {
        if is_null && !may_be_null {
            self.fail(EncodeError::NullNotAllowed { field, version: self.version });
        }
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.buf.put_u8(u8::from(value));
    }

    pub(crate) fn i8(&mut self, value: i8) {
        self.buf.put_i8(value);
    }

    pub(crate) fn i16(&mut self, value: i16) {
        self.buf.put_i16(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.buf.put_u16(value);
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.buf.put_i32(value);
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.buf.put_i64(value);
    }

    pub(crate) fn f64(&mut self, value: f64) {
        self.buf.put_f64(value);
    }

    pub(crate) fn uuid(&mut self, value: Uuid) {
        self.buf.put_slice(value.as_bytes());
    }

    pub(crate) fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buf.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.buf.put_u8(value as u8);
    }

    /// Strings stay within two signed bytes in both encodings, as Kafka's own reader and writer hold them to.
    fn length_i16(&mut self, field: &'static str, length: usize) {
        match i16::try_from(length) {
            Ok(length) if self.flexible => self.unsigned_varint(length as u32 + 1),
            Ok(length) => self.i16(length),
            Err(_) => self.fail(EncodeError::TooLong { field, length }),
        }
    }

    fn length_i32(&mut self, field: &'static str, length: usize) {
        match i32::try_from(length) {
            Ok(length) if self.flexible => self.unsigned_varint(length as u32 + 1),
            Ok(length) => self.i32(length),
            Err(_) => self.fail(EncodeError::TooLong { field, length }),
        }
    }

    pub(crate) fn string(&mut self, field: &'static str, value: &str) {
        self.length_i16(field, value.len());
        self.buf.put_slice(value.as_bytes());
    }

    pub(crate) fn nullable_string(&mut self, field: &'static str, value: Option<&str>) {
        match value {
            Some(value) => self.string(field, value),
            None if self.flexible => self.buf.put_u8(0),
            None => self.i16(-1),
        }
    }

    /// A string with a two-byte length even in a flexible version, as the client id of a request header is.
    pub(crate) fn legacy_nullable_string(&mut self, field: &'static str, value: Option<&str>) {
        let flexible = std::mem::replace(&mut self.flexible, false);
        self.nullable_string(field, value);
        self.flexible = flexible;
    }

    pub(crate) fn bytes(&mut self, field: &'static str, value: &[u8]) {
        self.length_i32(field, value.len());
        self.buf.put_slice(value);
    }

    pub(crate) fn nullable_bytes(&mut self, field: &'static str, value: Option<&[u8]>) {
        match value {
            Some(value) => self.bytes(field, value),
            None => self.null(),
        }
    }

    /// The null of an array or byte field.
    fn null(&mut self) {
        if self.flexible { self.buf.put_u8(0) } else { self.i32(-1) }
    }

    pub(crate) fn array<T>(&mut self, field: &'static str, values: &[T], element: fn(&mut Self, &T)) {
        self.length_i32(field, values.len());
        for value in values {
            element(self, value);
        }
    }

    pub(crate) fn nullable_array<T>(&mut self, field: &'static str, values: Option<&[T]>, element: fn(&mut Self, &T)) {
        match values {
            Some(values) => self.array(field, values, element),
            None => self.null(),
        }
    }

    /// A struct that may be null (KIP-893).
    pub(crate) fn nullable_struct<T: Struct>(&mut self, value: Option<&T>) {
        match value {
            Some(value) => {
                self.i8(1);
                value.write(self);
            }
            None => self.i8(-1),
        }
    }

    /// The number of tagged fields that end a struct, if the version is flexible. Each follows by
    /// [`Writer::tagged_field`], tags rising.
    pub(crate) fn tagged_field_count(&mut self, count: u32) {
        if self.flexible {
            self.unsigned_varint(count);
        }
    }

    /// The value is written first and its size put in front, so that nothing must be measured beforehand.
    pub(crate) fn tagged_field(&mut self, tag: u32, value: impl FnOnce(&mut Self)) {
        self.unsigned_varint(tag);
        let start = self.buf.len();
        value(self);
        let end = self.buf.len();
        let Ok(size) = u32::try_from(end - start) else {
            return self.fail(EncodeError::TooLong { field: "tagged field", length: end - start });
        };
        self.unsigned_varint(size);
        let prefix_len = self.buf.len() - end;
        self.buf[start..].rotate_right(prefix_len);
    }
}
