//! What must hold for every message in every version, whatever the value or the bytes.

use bytes::{Bytes, BytesMut};
use milena_protocol::{Decode as _, DecodeError, Message, messages::DescribeGroupsRequest};
use proptest::{
    collection::vec,
    prelude::any,
    test_runner::{Config, TestRunner},
};

use crate::{
    generated,
    random::{Random, Source},
};

/// Runs `law` on random bytes; a failure is shrunk and told.
pub(crate) fn for_random_bytes(cases: u32, law: impl Fn(&[u8])) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&vec(any::<u8>(), 0..512), |bytes| {
        law(&bytes);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

fn encoded<M: Message>(value: &M, version: i16) -> Bytes {
    let mut buf = BytesMut::new();
    value.encode(version, &mut buf).expect("a random value fits its version");
    buf.freeze()
}

/// What `decode` may allocate.
fn allowed(input: usize) -> u64 {
    64 * input as u64 + (64 << 10)
}

/// Decodes and holds what is allocated against what may be.
fn decode_metered<M: Message>(version: i16, input: &[u8]) -> Result<M, DecodeError> {
    let frame = Bytes::copy_from_slice(input);
    let mut result = None;
    let meter = allocation_counter::measure(|| result = Some(M::decode_exact(version, frame)));
    assert!(
        meter.bytes_max <= allowed(input.len()),
        "{} {version}: {} bytes of memory for {} of input",
        M::NAME,
        meter.bytes_max,
        input.len()
    );
    result.expect("decoding was measured")
}

fn obeys<M: Message + Random>() {
    for version in M::VERSIONS.min..=M::VERSIONS.max {
        for_random_bytes(16, |bytes| {
            let value = M::random(&mut Source::new(version, bytes));
            let frame = encoded(&value, version);
            assert_eq!(decode_metered(version, &frame).as_ref(), Ok(&value), "{version}: what went in comes out");
            // Each prefix, but of a long frame only some.
            for end in (0..frame.len()).step_by(1 + frame.len() / 64) {
                let error = decode_metered::<M>(version, &frame[..end]);
                assert!(error.is_err(), "{version}: {end} of {} bytes are no {}", frame.len(), M::NAME);
            }
            let trailing = [&frame[..], &[0]].concat();
            assert_eq!(decode_metered::<M>(version, &trailing), Err(DecodeError::TrailingBytes { left: 1 }));
            // One byte of it changed, each in turn: no panic, no excess.
            for at in (0..frame.len()).step_by(1 + frame.len() / 64) {
                for wrong in [0x00, 0x7f, 0x80, 0xff, frame[at].wrapping_add(1)] {
                    let mut mutated = frame.to_vec();
                    mutated[at] = wrong;
                    let _ = decode_metered::<M>(version, &mutated);
                }
            }
        });
        for_random_bytes(32, |bytes| {
            let _ = decode_metered::<M>(version, bytes);
            // Few different bytes make counts and lengths that fit more often.
            let small: Vec<u8> =
                bytes.iter().map(|byte| [0, 0, 0, 1, 2, 3, 0x7f, 0xff][usize::from(byte % 8)]).collect();
            let _ = decode_metered::<M>(version, &small);
        });
        // As large in memory as its bytes on the wire allow: elements that are as small as can be.
        for depth in 1..=4 {
            for count in [1_500, 5_000] {
                let value = M::random(&mut Source::long(version, depth, count));
                let frame = encoded(&value, version);
                assert_eq!(decode_metered(version, &frame).as_ref(), Ok(&value));
                // An array that ends early has grown furthest beyond its elements.
                let _ = decode_metered::<M>(version, &frame[..frame.len() / 2]);
            }
        }
        let default = M::default();
        if let Ok(()) = default.encode(version, &mut BytesMut::new()) {
            assert_eq!(decode_metered(version, &encoded(&default, version)), Ok(default));
        }
    }
    for version in [M::VERSIONS.min - 1, M::VERSIONS.max + 1] {
        assert!(M::default().encode(version, &mut BytesMut::new()).is_err());
        assert!(M::decode_exact(version, Bytes::new()).is_err());
    }
}

#[test]
fn a_count_alone_buys_no_memory() {
    // Ninety thousand group ids are claimed, and bytes enough are there; but the first of them says null.
    let mut frame = vec![0; 100_000];
    frame[..3].copy_from_slice(&[0x91, 0xbf, 0x05]);
    let frame = Bytes::from(frame);
    let version = DescribeGroupsRequest::VERSIONS.max;
    let mut result = None;
    let meter = allocation_counter::measure(|| result = Some(DescribeGroupsRequest::decode_exact(version, frame)));
    assert_eq!(result, Some(Err(DecodeError::NullNotAllowed { field: "DescribeGroupsRequest.groups" })));
    assert!(meter.bytes_max < 8 << 10, "{} bytes", meter.bytes_max);
}

macro_rules! obey {
    ($($module:ident $message:ident)*) => {$(
        #[test]
        fn $module() {
            obeys::<milena_protocol::messages::$message>();
        }
    )*};
}

generated::every_message!(obey);
