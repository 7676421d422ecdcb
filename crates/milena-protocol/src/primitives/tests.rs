use bytes::{Bytes, BytesMut};

use super::{Reader, StrBytes, Uuid, Writer};
use crate::{DecodeError, messages::EndTxnMarker};

fn reader(flexible: bool, bytes: &'static [u8]) -> Reader {
    Reader::new(0, flexible, Bytes::from_static(bytes))
}

fn read<T>(flexible: bool, bytes: &'static [u8], read: impl FnOnce(&mut Reader) -> T) -> Result<T, DecodeError> {
    let mut r = reader(flexible, bytes);
    let value = read(&mut r);
    r.finish(value, &mut Bytes::new())
}

fn written(flexible: bool, write: impl FnOnce(&mut Writer<'_>)) -> BytesMut {
    let mut buf = BytesMut::new();
    let mut w = Writer::new(0, flexible, &mut buf);
    write(&mut w);
    w.finish().unwrap();
    buf
}

#[test]
fn varints_hold_every_value_and_no_more() {
    for value in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455, 268_435_456, u32::MAX] {
        let bytes = written(true, |w| w.unsigned_varint(value)).freeze();
        let mut r = Reader::new(0, true, bytes);
        assert_eq!(r.unsigned_varint("v"), value);
        assert_eq!((r.left(), r.failed()), (0, false));
    }
    let overflow = Err(DecodeError::VarintOverflow { field: "v" });
    assert_eq!(read(true, &[0xff, 0xff, 0xff, 0xff, 0x1f], |r| r.unsigned_varint("v")), overflow);
    assert_eq!(read(true, &[0xff, 0xff, 0xff, 0xff, 0x8f, 0x01], |r| r.unsigned_varint("v")), overflow);
    assert_eq!(
        read(true, &[0x80], |r| r.unsigned_varint("v")),
        Err(DecodeError::UnexpectedEnd { field: "v", needed: 1, left: 0 })
    );
}

#[test]
fn lengths_below_null_and_beyond_the_frame_are_refused() {
    assert_eq!(
        read(false, &[0xff, 0xfe], |r| r.nullable_string("s")),
        Err(DecodeError::InvalidLength { field: "s", length: -2 })
    );
    assert_eq!(
        read(false, &[0x00, 0x02, b'a'], |r| r.string("s")),
        Err(DecodeError::LengthExceedsFrame { field: "s", length: 2, left: 1 })
    );
    assert_eq!(
        read(true, &[0x03, b'a'], |r| r.bytes("b")),
        Err(DecodeError::LengthExceedsFrame { field: "b", length: 2, left: 1 })
    );
    assert_eq!(
        read(false, &[0x7f, 0xff, 0xff, 0xff], |r| r.array::<_, 1>("a", |r| r.i8("a"))),
        Err(DecodeError::LengthExceedsFrame { field: "a", length: 0x7fff_ffff, left: 0 })
    );
    assert_eq!(
        read(true, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0], |r| r.array::<_, 2>("a", |r| r.i16("a"))),
        Err(DecodeError::LengthExceedsFrame { field: "a", length: 0xffff_fffe, left: 2 })
    );
}

#[test]
fn a_count_is_held_against_the_bytes_left_to_the_byte() {
    let array = |bytes| read(true, bytes, |r| r.array::<_, 2>("a", |r| r.i16("a")));
    assert_eq!(array(&[3, 0, 1, 0, 2]), Ok(vec![1, 2]));
    assert_eq!(array(&[3, 0, 1, 0]), Err(DecodeError::LengthExceedsFrame { field: "a", length: 2, left: 3 }));
}

#[test]
fn null_is_refused_where_it_is_not_allowed() {
    assert_eq!(read(false, &[0xff, 0xff], |r| r.string("s")), Err(DecodeError::NullNotAllowed { field: "s" }));
    assert_eq!(read(true, &[0], |r| r.string("s")), Err(DecodeError::NullNotAllowed { field: "s" }));
    assert_eq!(read(true, &[0], |r| r.bytes("b")), Err(DecodeError::NullNotAllowed { field: "b" }));
    assert_eq!(
        read(false, &[0xff; 4], |r| r.array::<_, 1>("a", |r| r.i8("a"))),
        Err(DecodeError::NullNotAllowed { field: "a" })
    );
    assert_eq!(read(true, &[0], |r| r.nullable_array::<_, 1>("a", |r| r.i8("a"))), Ok(None));
    assert_eq!(
        read(true, &[5], |r| r.nullable_struct::<EndTxnMarker>("s")),
        Err(DecodeError::InvalidPresence { field: "s", value: 5 })
    );
}

#[test]
fn strings_are_strict_utf8_and_slices_of_the_frame() {
    assert_eq!(read(true, &[2, 0xff], |r| r.string("s")), Err(DecodeError::InvalidString { field: "s" }));
    let frame = Bytes::from(vec![0, 3, b'a', b'b', b'c']);
    let mut r = Reader::new(0, false, frame.clone());
    let text = r.string("s");
    assert_eq!(text, "abc");
    assert_eq!(text.as_bytes().as_ptr(), frame[2..].as_ptr());
}

#[test]
fn only_the_first_failure_is_told() {
    let error = read(false, &[1], |r| {
        let short = r.i32("first");
        let after = r.string("second");
        (short, after)
    });
    assert_eq!(error, Err(DecodeError::UnexpectedEnd { field: "first", needed: 4, left: 1 }));
}

#[test]
fn tagged_fields_must_rise_and_fit() {
    let tags = |bytes: &'static [u8]| {
        read(true, bytes, |r| {
            let mut seen = 0;
            r.tagged_fields("s", |r, tag| {
                if tag == 1 {
                    seen = r.i16("one");
                }
                tag == 1
            });
            seen
        })
    };
    let bad = |tag, reason| Err(DecodeError::BadTaggedField { field: "s", tag, reason });
    assert_eq!(tags(&[0]), Ok(0));
    assert_eq!(tags(&[2, 0, 1, 9, 1, 2, 0, 7]), Ok(7), "an unknown tag is skipped");
    assert_eq!(tags(&[2, 1, 2, 0, 7, 1, 2, 0, 7]), bad(1, "tags must rise"));
    assert_eq!(tags(&[2, 3, 0, 1, 2, 0, 7]), bad(1, "tags must rise"));
    assert_eq!(tags(&[1, 1, 3, 0, 7, 0]), bad(1, "its size is not that of its value"));
    assert_eq!(tags(&[1, 1, 9, 0, 7, 0]), bad(1, "its size exceeds the bytes left"));
    assert_eq!(
        tags(&[1, 1, 1, 0, 7]),
        Err(DecodeError::UnexpectedEnd { field: "one", needed: 2, left: 1 }),
        "a tagged value may not read past its own size"
    );
    assert_eq!(
        tags(&[0xff, 0xff, 0xff, 0xff, 0x0f]),
        Err(DecodeError::UnexpectedEnd { field: "s", needed: 1, left: 0 })
    );
}

#[test]
fn tagged_field_is_prefixed_with_its_size() {
    let bytes = written(true, |w| {
        w.tagged_field_count(1);
        w.tagged_field(3, |w| w.bytes("b", &[7; 200]));
    });
    // 202: two bytes of compact length and the value.
    assert_eq!(bytes[..6], [1, 3, 202, 1, 201, 1]);
    assert_eq!(bytes.len(), 6 + 200);
}

#[test]
fn uuid_is_printed_as_kafka_does() {
    // From Kafka's own UuidTest and a topic of a real broker.
    assert_eq!(Uuid::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
    assert_eq!(Uuid::from_u128(1).to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
    let id = Uuid::from_u128(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210);
    assert_eq!(id.to_string(), "ASNFZ4mrze_-3LqYdlQyEA");
    assert_eq!(id.to_string().parse(), Ok(id));
    for bad in
        ["", "ASNFZ4mrze_-3LqYdlQyE", "ASNFZ4mrze_-3LqYdlQyEB", "ASNFZ4mrze+-3LqYdlQyEA", "ASNFZ4mrze_-3LqYdlQyEA="]
    {
        assert!(bad.parse::<Uuid>().is_err(), "{bad}");
    }
}

#[test]
fn str_bytes_hashes_as_str_does() {
    let map: std::collections::HashMap<StrBytes, u8> = [(StrBytes::from("orders"), 1)].into();
    assert_eq!(map.get("orders"), Some(&1));
}
