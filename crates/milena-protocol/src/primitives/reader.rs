//! Reads the fields of a message from a frame.
//!
//! The reader remembers the first thing that went wrong and from then on answers with empty values, so that the
//! generated code is a plain list of fields; [`Reader::finish`] turns what it remembers into a `Result`. It may not
//! panic, nor allocate more than the bytes at hand justify, whatever the bytes.

use bytes::{Buf as _, Bytes};

use super::{StrBytes, Uuid};
use crate::{DecodeError, VersionRange, codec::Struct};

/// An array starts with room for at most this many elements, and for at most this many bytes, whatever its count
/// says; then it doubles with what really came, up to its count.
const MAX_PREALLOCATED_ELEMENTS: usize = 1024;
const MAX_PREALLOCATED_BYTES: usize = 4096;

/// What [`crate::Decode::decode`] promises.
const MAX_MEMORY_PER_WIRE_BYTE: usize = 64;

/// Refuses to compile an array of elements that are too large in memory for the fewest bytes that they take on the
/// wire: while it grows to its last capacity, an array holds one and a half times its elements.
const fn assert_element_fits(element_size: usize, smallest: usize) {
    let allowed = smallest * MAX_MEMORY_PER_WIRE_BYTE;
    assert!(element_size + element_size / 2 <= allowed, "the element is too large for its bytes on the wire");
}

/// The capacity that an array starts with. It is its count halved, perhaps again and again, so that the last doubling
/// starts from half of the count: were it to start from nearly all, the two buffers would hold it twice.
fn first_capacity(count: usize, element_size: usize) -> usize {
    let room = (MAX_PREALLOCATED_BYTES / element_size.max(1)).clamp(1, MAX_PREALLOCATED_ELEMENTS);
    let mut capacity = count;
    while capacity > room {
        capacity = capacity.div_ceil(2);
    }
    capacity
}

#[derive(Debug)]
pub(crate) struct Reader {
    data: Bytes,
    position: usize,
    /// Where the innermost tagged field, or else the frame, ends.
    end: usize,
    version: i16,
    flexible: bool,
    error: Option<DecodeError>,
}

impl Reader {
    /// Takes `buf`, to be given back by [`Reader::finish`]. `first_flexible` is the first version in the flexible
    /// encoding, `i16::MAX` if there is none.
    pub(crate) fn open(
        message: &'static str,
        supported: VersionRange,
        first_flexible: i16,
        version: i16,
        buf: &mut Bytes,
    ) -> Result<Self, DecodeError> {
        if !supported.contains(version) {
            return Err(DecodeError::UnsupportedVersion { message, version, supported });
        }
        Ok(Self::new(version, version >= first_flexible, std::mem::take(buf)))
    }

    pub(crate) fn new(version: i16, flexible: bool, data: Bytes) -> Self {
        let end = data.len();
        Self { data, position: 0, end, version, flexible, error: None }
    }

    /// Leaves in `buf` what was not read.
    pub(crate) fn finish<T>(mut self, value: T, buf: &mut Bytes) -> Result<T, DecodeError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        self.data.advance(self.position);
        *buf = self.data;
        Ok(value)
    }

    pub(crate) fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    pub(crate) fn version(&self) -> i16 {
        self.version
    }

    pub(crate) fn failed(&self) -> bool {
        self.error.is_some()
    }

    /// Bytes left in the frame, or in the tagged field being read.
    pub(crate) fn left(&self) -> usize {
        self.end - self.position
    }

    /// Notes what is wrong, unless something was before, and leaves nothing more to read.
    #[cold]
    pub(crate) fn fail(&mut self, error: DecodeError) {
        self.error.get_or_insert(error);
        self.position = self.end;
    }

    fn fixed<const N: usize>(&mut self, field: &'static str) -> [u8; N] {
        if let Some(bytes) = self.data[self.position..self.end].first_chunk::<N>() {
            self.position += N;
            *bytes
        } else {
            self.fail(DecodeError::UnexpectedEnd { field, needed: N, left: self.left() });
            [0; N]
        }
    }

    pub(crate) fn bool(&mut self, field: &'static str) -> bool {
        // As in Kafka, anything but 0 is true.
        self.i8(field) != 0
    }

    pub(crate) fn i8(&mut self, field: &'static str) -> i8 {
        i8::from_be_bytes(self.fixed(field))
    }

    pub(crate) fn i16(&mut self, field: &'static str) -> i16 {
        i16::from_be_bytes(self.fixed(field))
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> u16 {
        u16::from_be_bytes(self.fixed(field))
    }

    pub(crate) fn i32(&mut self, field: &'static str) -> i32 {
        i32::from_be_bytes(self.fixed(field))
    }

    pub(crate) fn i64(&mut self, field: &'static str) -> i64 {
        i64::from_be_bytes(self.fixed(field))
    }

    pub(crate) fn f64(&mut self, field: &'static str) -> f64 {
        f64::from_be_bytes(self.fixed(field))
    }

    pub(crate) fn uuid(&mut self, field: &'static str) -> Uuid {
        Uuid::from_bytes(self.fixed(field))
    }

    /// At most five bytes, the last of which has no bits beyond the 32nd.
    pub(crate) fn unsigned_varint(&mut self, field: &'static str) -> u32 {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.fixed::<1>(field)[0];
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return value;
            }
        }
        self.fail(DecodeError::VarintOverflow { field });
        0
    }

    /// A length or count: `None` is null.
    fn length(&mut self, field: &'static str, legacy_width: LegacyWidth) -> Option<usize> {
        let length = if self.flexible {
            i64::from(self.unsigned_varint(field)) - 1
        } else {
            match legacy_width {
                LegacyWidth::I16 => i64::from(self.i16(field)),
                LegacyWidth::I32 => i64::from(self.i32(field)),
            }
        };
        match length {
            0.. => usize::try_from(length).ok(),
            // After a failure the zero of a varint looks like null; the first failure is the one that is kept.
            -1 => None,
            _ => {
                self.fail(DecodeError::InvalidLength { field, length });
                None
            }
        }
    }

    fn slice(&mut self, field: &'static str, length: usize) -> Bytes {
        if length == 0 {
            return Bytes::new();
        }
        if length > self.left() {
            self.fail(DecodeError::LengthExceedsFrame { field, length: length as u64, left: self.left() });
            return Bytes::new();
        }
        let start = self.position;
        self.position += length;
        self.data.slice(start..self.position)
    }

    #[cold]
    fn null(&mut self, field: &'static str) {
        self.fail(DecodeError::NullNotAllowed { field });
    }

    pub(crate) fn nullable_bytes(&mut self, field: &'static str) -> Option<Bytes> {
        let length = self.length(field, LegacyWidth::I32)?;
        Some(self.slice(field, length))
    }

    pub(crate) fn bytes(&mut self, field: &'static str) -> Bytes {
        self.nullable_bytes(field).unwrap_or_else(|| {
            self.null(field);
            Bytes::new()
        })
    }

    pub(crate) fn nullable_string(&mut self, field: &'static str) -> Option<StrBytes> {
        let length = self.length(field, LegacyWidth::I16)?;
        if length > i16::MAX as usize {
            self.fail(DecodeError::InvalidLength { field, length: length as i64 });
            return None;
        }
        let bytes = self.slice(field, length);
        Some(StrBytes::from_utf8(bytes).unwrap_or_else(|_| {
            self.fail(DecodeError::InvalidString { field });
            StrBytes::EMPTY
        }))
    }

    pub(crate) fn string(&mut self, field: &'static str) -> StrBytes {
        self.nullable_string(field).unwrap_or_else(|| {
            self.null(field);
            StrBytes::EMPTY
        })
    }

    /// A string with a two-byte length even in a flexible version, as the client id of a request header is.
    pub(crate) fn legacy_nullable_string(&mut self, field: &'static str) -> Option<StrBytes> {
        let flexible = std::mem::replace(&mut self.flexible, false);
        let text = self.nullable_string(field);
        self.flexible = flexible;
        text
    }

    /// An array of elements each of which takes at least `SMALLEST` bytes on the wire.
    pub(crate) fn nullable_array<T, const SMALLEST: usize>(
        &mut self,
        field: &'static str,
        element: fn(&mut Self) -> T,
    ) -> Option<Vec<T>> {
        const { assert_element_fits(size_of::<T>(), SMALLEST) };
        self.elements(field, SMALLEST, element)
    }

    fn elements<T>(&mut self, field: &'static str, smallest: usize, element: fn(&mut Self) -> T) -> Option<Vec<T>> {
        let count = self.count(field, smallest)?;
        let mut elements = Vec::with_capacity(first_capacity(count, size_of::<T>()));
        while elements.len() < count {
            if elements.len() == elements.capacity() {
                elements.reserve_exact(elements.len().min(count - elements.len()));
            }
            elements.push(element(self));
            if self.failed() {
                return None;
            }
        }
        Some(elements)
    }

    /// As [`Reader::nullable_array`], where null is an error.
    pub(crate) fn array<T, const SMALLEST: usize>(
        &mut self,
        field: &'static str,
        element: fn(&mut Self) -> T,
    ) -> Vec<T> {
        self.nullable_array::<T, SMALLEST>(field, element).unwrap_or_else(|| {
            self.null(field);
            Vec::new()
        })
    }

    /// An array of structs.
    pub(crate) fn nullable_structs<T: Struct>(&mut self, field: &'static str) -> Option<Vec<T>> {
        const { assert_element_fits(size_of::<T>(), T::SMALLEST) };
        self.elements(field, T::SMALLEST, T::read)
    }

    /// As [`Reader::nullable_structs`], where null is an error.
    pub(crate) fn structs<T: Struct>(&mut self, field: &'static str) -> Vec<T> {
        self.nullable_structs(field).unwrap_or_else(|| {
            self.null(field);
            Vec::new()
        })
    }

    /// The count of an array that may not be null, for a caller that reads the elements itself; 0 after an error.
    pub(crate) fn required_count(&mut self, field: &'static str, smallest: usize) -> usize {
        self.count(field, smallest).unwrap_or_else(|| {
            self.null(field);
            0
        })
    }

    /// The count of an array whose elements take at least `smallest` bytes each.
    fn count(&mut self, field: &'static str, smallest: usize) -> Option<usize> {
        let count = self.length(field, LegacyWidth::I32)?;
        if count.checked_mul(smallest).is_none_or(|needed| needed > self.left()) {
            self.fail(DecodeError::LengthExceedsFrame { field, length: count as u64, left: self.left() });
            return None;
        }
        Some(count)
    }

    /// A struct that may be null (KIP-893).
    pub(crate) fn nullable_struct<T: Struct>(&mut self, field: &'static str) -> Option<T> {
        self.is_present(field).then(|| T::read(self))
    }

    /// Fails if `value` is null in a version in which it may not be.
    pub(crate) fn check_null<T>(&mut self, field: &'static str, may_be_null: bool, value: &Option<T>) {
        if value.is_none() && !may_be_null {
            self.null(field);
        }
    }

    /// Whether a nullable struct is there (KIP-893).
    fn is_present(&mut self, field: &'static str) -> bool {
        match self.i8(field) {
            1 => true,
            -1 => false,
            value => {
                self.fail(DecodeError::InvalidPresence { field, value });
                false
            }
        }
    }

    /// The tagged fields that end a struct, if the version is flexible. `known` reads the field of a tag that it
    /// knows and says true, or says false: then the field is skipped.
    pub(crate) fn tagged_fields(&mut self, field: &'static str, mut known: impl FnMut(&mut Self, u32) -> bool) {
        if !self.flexible {
            return;
        }
        let count = self.unsigned_varint(field);
        let mut previous = None;
        for _ in 0..count {
            let tag = self.unsigned_varint(field);
            let size = self.unsigned_varint(field) as usize;
            if self.failed() {
                return;
            }
            if previous.is_some_and(|previous| tag <= previous) {
                return self.fail(DecodeError::BadTaggedField { field, tag, reason: "tags must rise" });
            }
            previous = Some(tag);
            if size > self.left() {
                let reason = "its size exceeds the bytes left";
                return self.fail(DecodeError::BadTaggedField { field, tag, reason });
            }
            let outer_end = std::mem::replace(&mut self.end, self.position + size);
            if known(self, tag) {
                if self.left() != 0 {
                    self.fail(DecodeError::BadTaggedField { field, tag, reason: "its size is not that of its value" });
                }
            } else {
                self.position = self.end;
            }
            self.end = outer_end;
            if self.failed() {
                self.position = self.end;
                return;
            }
        }
    }

    /// The end of a struct that has no tagged fields of its own: those of newer versions are skipped.
    pub(crate) fn no_tagged_fields(&mut self, field: &'static str) {
        self.tagged_fields(field, |_, _| false);
    }
}

#[derive(Debug, Clone, Copy)]
enum LegacyWidth {
    I16,
    I32,
}
