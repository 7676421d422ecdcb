use bytes::{Bytes, BytesMut};

use super::*;

#[test]
fn request_headers_round_trip_in_both_versions() {
    for (version, last_byte) in [(8, b'c'), (9, 0)] {
        let mut buf = BytesMut::new();
        encode_request_header(&mut buf, ApiKey::Produce, version, 7, Some("c")).unwrap();
        assert_eq!(buf.last(), Some(&last_byte), "only the flexible header ends in tagged fields");
        buf.put_u8(0xaa);
        let mut bytes = buf.freeze();
        let header = decode_request_header(&mut bytes).unwrap();
        let client_id = Some(StrBytes::from_static("c"));
        assert_eq!(header, RequestHeader { api_key: 0, api_version: version, correlation_id: 7, client_id });
        assert_eq!(&bytes[..], [0xaa], "the body is left");
    }
}

#[test]
fn header_of_an_unknown_api_or_version_can_be_read() {
    let mut future = Bytes::from_static(&[0, 18, 0x7f, 0xff, 0, 0, 0, 5, 0xff, 0xff, 0]);
    let header = decode_request_header(&mut future).unwrap();
    assert_eq!((header.api_version, header.correlation_id, header.client_id), (0x7fff, 5, None));
    assert!(future.is_empty());
    let mut unknown = Bytes::from_static(&[0x7f, 0, 0, 0, 0, 0, 0, 5, 0, 1, b'x']);
    assert_eq!(decode_request_header(&mut unknown).unwrap().api_key, 0x7f00);
}

#[test]
fn response_headers_round_trip_in_both_versions() {
    for (key, version, length) in [(ApiKey::Fetch, 11, 4), (ApiKey::Fetch, 12, 5), (ApiKey::ApiVersions, 4, 4)] {
        let mut buf = BytesMut::new();
        encode_response_header(&mut buf, key, version, -3);
        assert_eq!(buf.len(), length, "{key} {version}");
        let mut bytes = buf.freeze();
        assert_eq!(decode_response_header(&mut bytes, key, version), Ok(-3));
        assert!(bytes.is_empty());
    }
}

#[test]
fn every_prefix_of_a_header_is_an_error() {
    let mut buf = BytesMut::new();
    encode_request_header(&mut buf, ApiKey::Fetch, 17, 1, Some("client")).unwrap();
    let bytes = buf.freeze();
    for end in 0..bytes.len() {
        assert!(decode_request_header(&mut bytes.slice(..end)).is_err(), "{end}");
    }
}

#[test]
fn frames_come_out_whole_wherever_the_stream_is_split() {
    let stream = [&[0, 0, 0, 3, 1, 2, 3][..], &[0, 0, 0, 1, 9], &[0, 0, 0, 2, 7, 8]].concat();
    for split in 0..=stream.len() {
        let mut decoder = FrameDecoder::new(3);
        let mut frames = Vec::new();
        for part in [&stream[..split], &stream[split..]] {
            decoder.push(part);
            while let Some(frame) = decoder.next_frame().unwrap() {
                frames.push(frame);
            }
        }
        assert_eq!(frames, [&[1, 2, 3][..], &[9], &[7, 8]], "split at {split}");
    }
}

#[test]
fn a_long_frame_is_not_reserved_before_it_comes() {
    let mut decoder = FrameDecoder::new(100 << 20);
    decoder.push(&(100i32 << 20).to_be_bytes());
    assert_eq!(decoder.next_frame(), Ok(None));
    assert!(decoder.buffer().capacity() < 1024);
    assert_eq!(decoder.missing(), Some(100 << 20));
}

#[test]
fn lengths_that_are_none_are_told_by_what_sent_them() {
    let error = |bytes: &[u8]| {
        let mut decoder = FrameDecoder::new(1024);
        decoder.push(bytes);
        let error = decoder.next_frame().unwrap_err();
        assert_eq!(decoder.next_frame(), Err(error));
        error
    };
    assert_eq!(error(&[0; 4]), FrameError::NotKafka { length: 0 });
    assert_eq!(error(&[0xff; 4]), FrameError::NotKafka { length: -1 });
    assert_eq!(error(&[0, 0, 4, 1]), FrameError::TooLarge { length: 1025, limit: 1024 });
    assert!(error(b"HTTP/1.1 400 Bad Request").to_string().contains("HTTP server"));
    assert!(error(&[0x15, 3, 3, 0, 2]).to_string().contains("TLS server"));
}
