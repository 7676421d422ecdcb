//! Frames: the length prefix, request and response headers, and the cutting of a byte stream into frames.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::{
    ApiKey, DecodeError, Encode, EncodeError, Request, StrBytes,
    primitives::{Reader, Writer},
};

/// Bytes of the length that goes before each frame.
pub const LENGTH_PREFIX: usize = 4;

/// What goes before a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestHeader {
    /// Which request it is; not necessarily one that this crate knows.
    pub api_key: i16,
    /// The request's version; not necessarily one that this crate knows.
    pub api_version: i16,
    /// Comes back with the response.
    pub correlation_id: i32,
    /// The name that the client gives itself.
    pub client_id: Option<StrBytes>,
}

/// Appends the header of a request, without a length prefix.
///
/// # Errors
/// [`EncodeError::TooLong`] if the client id is longer than 32,767 bytes.
pub fn encode_request_header(
    buf: &mut BytesMut,
    api_key: ApiKey,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
) -> Result<(), EncodeError> {
    let header_version = api_key.request_header_version(version);
    let mut w = Writer::new(header_version, header_version >= 2, buf);
    w.i16(api_key.into());
    w.i16(version);
    w.i32(correlation_id);
    // Brokers older than a flexible version must be able to read it, so it keeps its two-byte length (KIP-511).
    w.legacy_nullable_string("RequestHeader.client_id", client_id);
    w.tagged_field_count(0);
    w.finish()
}

/// Reads the header of a request and leaves its body in `buf`.
///
/// Like Kafka's broker it reads the header of an API or version that it does not know, so that an ApiVersions request
/// from the future can be answered with the versions that exist. Whoever calls must check both before decoding a body.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_request_header(buf: &mut Bytes) -> Result<RequestHeader, DecodeError> {
    let mut r = Reader::new(0, false, std::mem::take(buf));
    let api_key = r.i16("RequestHeader.api_key");
    let api_version = r.i16("RequestHeader.api_version");
    let correlation_id = r.i32("RequestHeader.correlation_id");
    let client_id = r.legacy_nullable_string("RequestHeader.client_id");
    if ApiKey::try_from(api_key).is_ok_and(|key| key.request_header_version(api_version) >= 2) {
        r.set_flexible(true);
        r.no_tagged_fields("RequestHeader");
    }
    r.finish(RequestHeader { api_key, api_version, correlation_id, client_id }, buf)
}

/// Appends the header of a response, without a length prefix.
pub fn encode_response_header(buf: &mut BytesMut, api_key: ApiKey, version: i16, correlation_id: i32) {
    buf.put_i32(correlation_id);
    if api_key.response_header_version(version) >= 1 {
        // No tagged fields.
        buf.put_u8(0);
    }
}

/// Reads the header of the response to a request of `version` and leaves its body in `buf`. Returns the correlation id.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_response_header(buf: &mut Bytes, api_key: ApiKey, version: i16) -> Result<i32, DecodeError> {
    let header_version = api_key.response_header_version(version);
    let mut r = Reader::new(header_version, header_version >= 1, std::mem::take(buf));
    let correlation_id = r.i32("ResponseHeader.correlation_id");
    r.no_tagged_fields("ResponseHeader");
    r.finish(correlation_id, buf)
}

/// A whole request frame: length prefix, header and body.
///
/// # Errors
/// See [`EncodeError`].
pub fn encode_request<R: Request>(
    correlation_id: i32,
    client_id: Option<&str>,
    version: i16,
    request: &R,
) -> Result<BytesMut, EncodeError> {
    let mut frame = open_frame();
    encode_request_header(&mut frame, R::API_KEY, version, correlation_id, client_id)?;
    request.encode(version, &mut frame)?;
    close_frame(frame)
}

/// A whole response frame to a request of type `R`: length prefix, header and body.
///
/// # Errors
/// See [`EncodeError`].
pub fn encode_response<R: Request>(
    correlation_id: i32,
    version: i16,
    response: &R::Response,
) -> Result<BytesMut, EncodeError> {
    let mut frame = open_frame();
    encode_response_header(&mut frame, R::API_KEY, version, correlation_id);
    response.encode(version, &mut frame)?;
    close_frame(frame)
}

fn open_frame() -> BytesMut {
    let mut frame = BytesMut::with_capacity(256);
    frame.put_i32(0);
    frame
}

fn close_frame(mut frame: BytesMut) -> Result<BytesMut, EncodeError> {
    let length = frame.len() - LENGTH_PREFIX;
    let prefix = i32::try_from(length).map_err(|_| EncodeError::TooLong { field: "frame", length })?;
    frame[..LENGTH_PREFIX].copy_from_slice(&prefix.to_be_bytes());
    Ok(frame)
}

/// Why a byte stream can't be cut into frames. Close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length is negative or zero, or the bytes are those of another protocol.
    #[error("a frame of length {length} is not Kafka's{}: check the port", other_protocol(*length))]
    NotKafka {
        /// The first four bytes, read as a length.
        length: i32,
    },
    /// The frame is longer than allowed.
    #[error("a frame of {length} bytes exceeds the limit of {limit}{}", other_protocol(*length as i32))]
    TooLarge {
        /// Its length.
        length: usize,
        /// The longest allowed.
        limit: usize,
    },
}

/// What else could have sent these four bytes in the place of a length.
fn other_protocol(length: i32) -> &'static str {
    match length.to_be_bytes() {
        [b'H', b'T', b'T', b'P'] => " (an HTTP server answered)",
        // TLS alert or handshake record, any version.
        [0x15 | 0x16, 3, _, _] => " (a TLS server answered)",
        [b'S', b'S', b'H', b'-'] => " (an SSH server answered)",
        _ => "",
    }
}

/// Cuts a byte stream into frames, however it arrives.
///
/// Memory grows with the bytes received, never with the length that a frame claims; so what may be held is the limit
/// on a frame and what one read brings beyond it.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: BytesMut,
    limit: usize,
}

impl FrameDecoder {
    /// Takes frames of up to `limit` bytes, the length prefix not counted.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit }
    }

    /// Changes the limit: low before the other side has proven itself, high thereafter.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Where to append the bytes that arrive; reserve what one read may bring, no more.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Appends a copy of `bytes`.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, without its length prefix, or `None` until more bytes came.
    ///
    /// # Errors
    /// [`FrameError`] as soon as the length can be read; the same again if called again.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(prefix) = self.buffer.first_chunk::<LENGTH_PREFIX>() else { return Ok(None) };
        let claimed = i32::from_be_bytes(*prefix);
        let length = match usize::try_from(claimed) {
            Ok(length) if length > 0 => length,
            _ => return Err(FrameError::NotKafka { length: claimed }),
        };
        if length > self.limit {
            return Err(FrameError::TooLarge { length, limit: self.limit });
        }
        if self.buffer.len() < LENGTH_PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Bytes still missing from the frame begun, as far as its length is known yet.
    #[must_use]
    pub fn missing(&self) -> Option<usize> {
        let prefix = self.buffer.first_chunk::<LENGTH_PREFIX>()?;
        let length = usize::try_from(i32::from_be_bytes(*prefix)).ok()?;
        Some((LENGTH_PREFIX + length).saturating_sub(self.buffer.len()))
    }
}

#[cfg(test)]
mod tests;
