//! Cuts the incoming bytes into frames. A length is checked before it is believed, and the buffer grows with the bytes
//! that have come, never with the bytes that were announced.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use milena_protocol::frame::{FrameDecoder, FrameError};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::error::{CloseReason, NotKafka};

/// Room for one read of a connection that mostly sees small answers.
const READ_CHUNK: usize = 8 * 1024;
/// Less free room than this is not worth a system call.
const LEAST_ROOM: usize = READ_CHUNK / 8;
/// What a peer may send before it has shown that it is a Kafka broker.
const HANDSHAKE_LIMIT: usize = 1024 * 1024;

/// How far a peer is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// It has not shown yet that it is a Kafka broker: 1 MiB, and a wrong length says that it is none.
    Handshake,
    /// It has: the configured limit.
    Broker {
        /// The longest frame it may send.
        limit: usize,
    },
}

impl Trust {
    fn limit(self) -> usize {
        match self {
            Self::Handshake => HANDSHAKE_LIMIT,
            Self::Broker { limit } => limit,
        }
    }

    fn refuse(self, error: FrameError) -> CloseReason {
        let announced = match error {
            FrameError::NotKafka { length } => length,
            FrameError::TooLarge { length, .. } => i32::try_from(length).unwrap_or(i32::MAX),
            _ => return CloseReason::NotKafka(NotKafka::Unknown),
        };
        match self {
            Self::Broker { limit } => CloseReason::FrameLength { announced, limit },
            Self::Handshake => CloseReason::NotKafka(match announced.to_be_bytes() {
                [b'H', b'T', b'T', b'P'] => NotKafka::Http,
                // A TLS record: its content type (20 to 23), then the major version 3.
                [20..=23, 3, ..] => NotKafka::Tls,
                _ => NotKafka::Unknown,
            }),
        }
    }
}

pub(super) struct FrameReader {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    decoder: FrameDecoder,
    // The length of a frame that this peer really sent lately: so much is reserved at once, where an unproven
    // announcement makes the buffer double as it fills.
    proven: usize,
    // The longest that the buffer was since it was given back.
    reserved: usize,
}

impl FrameReader {
    pub(super) fn new(reader: Box<dyn AsyncRead + Send + Unpin>) -> Self {
        Self { reader, decoder: FrameDecoder::new(HANDSHAKE_LIMIT), proven: 0, reserved: 0 }
    }

    /// The next frame, without its length prefix.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>, trust: Trust) -> Poll<Result<Bytes, CloseReason>> {
        self.decoder.set_limit(trust.limit());
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(|error| trust.refuse(error))? {
                self.proven = frame.len().max(self.proven / 2);
                return Poll::Ready(Ok(frame));
            }
            let missing = self.decoder.missing().unwrap_or(0);
            let buffer = self.decoder.buffer();
            if buffer.capacity() - buffer.len() < LEAST_ROOM.max(missing.min(READ_CHUNK)) {
                let earned = buffer.len().max(self.proven);
                buffer.reserve(missing.min(earned).max(READ_CHUNK));
                self.reserved = self.reserved.max(buffer.capacity());
            }
            let Poll::Ready(read) = pin!(self.reader.read_buf(buffer)).poll(cx) else {
                self.give_back();
                return Poll::Pending;
            };
            let read = read.map_err(CloseReason::Io)?;
            if read == 0 {
                return Poll::Ready(Err(CloseReason::EndOfStream { mid_frame: !self.decoder.buffer().is_empty() }));
            }
        }
    }

    /// While nothing comes, no more is held than small answers take: a client has several connections to each broker, and
    /// most of them wait.
    fn give_back(&mut self) {
        if self.reserved > READ_CHUNK && self.decoder.buffer().is_empty() {
            *self.decoder.buffer() = BytesMut::new();
            self.reserved = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    const BROKER: Trust = Trust::Broker { limit: 100 * 1024 * 1024 };

    async fn next(reader: &mut FrameReader, trust: Trust) -> Result<Bytes, CloseReason> {
        poll_fn(|cx| reader.poll_frame(cx, trust)).await
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        let mut frame = (body.len() as i32).to_be_bytes().to_vec();
        frame.extend_from_slice(body);
        frame
    }

    #[tokio::test]
    async fn frames_split_at_every_byte_are_whole() {
        let wire = [framed(b"first answer"), framed(b"second")].concat();
        for cut in 0..=wire.len() {
            let (mut broker, client) = tokio::io::duplex(1024);
            let mut reader = FrameReader::new(Box::new(client));
            let (head, tail) = (wire[..cut].to_vec(), wire[cut..].to_vec());
            let write = tokio::spawn(async move {
                broker.write_all(&head).await.expect("room in the pipe");
                tokio::task::yield_now().await;
                broker.write_all(&tail).await.expect("room in the pipe");
                broker
            });
            assert_eq!(next(&mut reader, BROKER).await.expect("a frame")[..], b"first answer"[..], "cut at {cut}");
            assert_eq!(next(&mut reader, BROKER).await.expect("a frame")[..], b"second"[..], "cut at {cut}");
            drop(write.await);
            assert!(matches!(next(&mut reader, BROKER).await, Err(CloseReason::EndOfStream { mid_frame: false })));
        }
    }

    #[tokio::test]
    async fn a_large_announcement_reserves_no_more_than_has_come() {
        let (mut broker, client) = tokio::io::duplex(64 * 1024);
        let mut reader = FrameReader::new(Box::new(client));
        broker.write_all(&(100 * 1024 * 1024_i32).to_be_bytes()).await.expect("room in the pipe");
        broker.write_all(&[0; 60_000]).await.expect("room in the pipe");
        drop(broker);
        let error = next(&mut reader, BROKER).await.expect_err("the frame is cut off");
        assert!(matches!(error, CloseReason::EndOfStream { mid_frame: true }), "{error:?}");
        let capacity = reader.decoder.buffer().capacity();
        assert!(capacity <= 2 * (60_004 + READ_CHUNK), "{capacity} bytes");
    }

    #[tokio::test]
    async fn buffer_of_a_large_frame_is_given_back_while_nothing_comes() {
        let (mut broker, client) = tokio::io::duplex(64 * 1024);
        let mut reader = FrameReader::new(Box::new(client));
        for length in [500_000, 10, 500_000] {
            let frame = framed(&vec![7; length]);
            let (written, read) = tokio::join!(broker.write_all(&frame), next(&mut reader, BROKER));
            written.expect("room in the pipe");
            assert_eq!(read.expect("a frame").len(), length);
        }
        let waiting = poll_fn(|cx| Poll::Ready(reader.poll_frame(cx, BROKER).is_pending()));
        assert!(waiting.await, "nothing comes");
        let capacity = reader.decoder.buffer().capacity();
        assert!(capacity <= READ_CHUNK, "{capacity} bytes are held for nothing");
        // In the middle of a frame nothing is lost.
        let frame = framed(&[9; 30_000]);
        for part in [&frame[..2], &frame[2..20_000], &frame[20_000..29_000]] {
            broker.write_all(part).await.expect("room in the pipe");
            assert!(poll_fn(|cx| Poll::Ready(reader.poll_frame(cx, BROKER).is_pending())).await);
        }
        broker.write_all(&frame[29_000..]).await.expect("room in the pipe");
        assert_eq!(next(&mut reader, BROKER).await.expect("a frame")[..], [9; 30_000]);
    }

    #[tokio::test]
    async fn impossible_lengths_are_refused_and_named() {
        for (bytes, trust, wanted) in [
            (*b"HTTP", Trust::Handshake, "HTTP server"),
            ([21, 3, 3, 0], Trust::Handshake, "TLS listener"),
            (*b"SSH-", Trust::Handshake, "does not speak the Kafka protocol"),
            ([0, 0x20, 0, 0], Trust::Handshake, "does not speak the Kafka protocol"),
            ([0, 0, 0, 0], BROKER, "announces 0 bytes"),
            ([0xff; 4], BROKER, "announces -1 bytes"),
            ([0x7f, 0xff, 0xff, 0xff], BROKER, "announces 2147483647 bytes"),
        ] {
            let (mut broker, client) = tokio::io::duplex(64);
            let mut reader = FrameReader::new(Box::new(client));
            broker.write_all(&bytes).await.expect("room in the pipe");
            let error = next(&mut reader, trust).await.expect_err("no such frame").to_string();
            assert!(error.contains(wanted), "{bytes:?}: {error}");
        }
    }
}
