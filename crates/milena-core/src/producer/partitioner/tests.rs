use super::*;

/// Key, murmur2, CRC-32 and the partition of 17 by Java's default: printed by `Utils.murmur2`, `Utils.toPositive` and
/// `java.util.zip.CRC32` with kafka-clients 4.4.0.
const JAVA: &[(&[u8], i32, u32, i32)] = &[
    (b"", 275646681, 0, 11),
    (b"\x00", 375494588, 3523407757, 16),
    (b"\xff", -311467685, 4278190080, 0),
    (b"\x61", -1563381124, 3904355907, 0),
    (b"\x61\x62", 316155434, 2659403885, 8),
    (b"\x61\x62\x63", 479470107, 891568578, 16),
    (b"\x61\x62\x63\x64", -1323649548, 3984772369, 7),
    (b"\x61\x62\x63\x64\x65", 461995741, 2240272485, 1),
    (b"\x6b\x61\x66\x6b\x61", -798503068, 1539077399, 14),
    (b"\x32\x31", -973932308, 4252452532, 13),
    (b"\x66\x6f\x6f\x62\x61\x72", -790332482, 2666930069, 9),
    (b"\x61\x2d\x6c\x69\x74\x74\x6c\x65\x2d\x62\x69\x74\x2d\x6c\x6f\x6e\x67\x2d\x73\x74\x72\x69\x6e\x67", -985981536, 4000435554, 11),
    (b"\x61\x2d\x6c\x69\x74\x74\x6c\x65\x2d\x62\x69\x74\x2d\x6c\x6f\x6e\x67\x65\x72\x2d\x73\x74\x72\x69\x6e\x67", -1486304829, 2277486890, 12),
    (b"\x6c\x6b\x6a\x68\x32\x33\x34\x6c\x68\x39\x66\x69\x75\x68\x39\x30\x79\x32\x33\x6f\x69\x75\x68\x73\x61\x66\x75\x6a\x68\x61\x64\x6f\x66\x32\x32\x39\x70\x68\x72\x39\x68\x31\x39\x68\x38\x39\x68\x38", -58897971, 3769350433, 0),
    (b"\x80\x81\xfe\xff\x90\x01\x02", -909040294, 3817992865, 1),
    (b"\xc5\xbe\x6c\x75\xc5\xa5\x6f\x75\xc4\x8d\x6b\xc3\xbd\x20\x6b\xc5\xaf\xc5\x88", 874861404, 452904924, 9),
];

/// From Go's `hash/fnv` (New32a), which Sarama hashes with: the reference vectors of the FNV authors.
const FNV1A: &[(&[u8], u32)] =
    &[(b"", 0x811c_9dc5), (b"a", 0xe40c_292c), (b"foobar", 0xbf9c_f968), (b"b", 0xe70c_2de5), (b"foo", 0xa9f3_7ed7)];

#[test]
fn hashes_agree_with_java() {
    for (key, murmur, crc, of_17) in JAVA {
        assert_eq!(murmur2(key), *murmur, "murmur2 of {key:x?}");
        assert_eq!(crc32(key), *crc, "CRC-32 of {key:x?}");
        assert_eq!(Partitioner::Default.choose("t", Some(key), None, 17), Choice::Partition(*of_17), "{key:x?}");
        assert_eq!(Partitioner::Murmur2Random.choose("t", Some(key), None, 17), Choice::Partition(*of_17));
    }
}

#[test]
fn fnv1a_agrees_with_its_authors() {
    for (key, hash) in FNV1A {
        assert_eq!(fnv1a(key), *hash, "{key:x?}");
    }
    // A hash with its sign bit set: Sarama takes the remainder of the negative number and negates it.
    assert_eq!(
        Partitioner::Fnv1a.choose("t", Some(b"a"), None, 7),
        Choice::Partition((0xe40c_292c_u32.cast_signed() % 7).abs())
    );
}

/// The keys and hashes of librdkafka's test 0048, which took them from a CRC tool, from Java and from Go.
#[test]
fn partitions_agree_with_librdkafka() {
    let keys: [Option<&[u8]>; 5] = [
        None,
        Some(b""),
        Some(b"23456"),
        Some(b"this is another string with more length to it perhaps"),
        Some(b"hejsan"),
    ];
    for partitions in [7, 17] {
        let check = |partitioner: Partitioner, hashes: [Option<i64>; 5]| {
            for (key, hash) in keys.iter().zip(hashes) {
                let expected =
                    hash.map_or(Choice::Random, |hash| Choice::Partition((hash % i64::from(partitions)) as i32));
                assert_eq!(partitioner.choose("t", *key, None, partitions), expected, "{partitioner:?} of {key:?}");
            }
        };
        let crc = [0xb1b4_51d7, 0xb015_0df7, 0xd077_037e].map(Some);
        check(Partitioner::Consistent, [Some(0), Some(0), crc[0], crc[1], crc[2]]);
        check(Partitioner::ConsistentRandom, [None, None, crc[0], crc[1], crc[2]]);
        let murmur = [0x106e_08d9, 0x058d_780f, 0x4f77_03da, 0x5ec1_9395].map(Some);
        check(Partitioner::Murmur2, [murmur[0], murmur[0], murmur[1], murmur[2], murmur[3]]);
        check(Partitioner::Murmur2Random, [None, murmur[0], murmur[1], murmur[2], murmur[3]]);
        let fnv = [0x7ee3_623b, 0x27e6_f469, 0x155e_3e5f, 0x17b1_e27a].map(Some);
        check(Partitioner::Fnv1a, [fnv[0], fnv[0], fnv[1], fnv[2], fnv[3]]);
        check(Partitioner::Fnv1aRandom, [None, fnv[0], fnv[1], fnv[2], fnv[3]]);
    }
}

#[test]
fn keyless_records_stick_until_a_batch_is_full_and_avoid_long_queues() {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut sticky = StickyPartitioner::new(1_000);
    let load = |partition| PartitionLoad { queued: if partition == 0 { 200 } else { 0 }, available: partition != 1 };
    let drawn: Vec<_> = (0..5_000).map(|_| sticky.next(100, 4, load, &mut rng)).collect();
    assert!(drawn.chunks(10).all(|run| run.iter().all(|partition| *partition == run[0])), "ten records of 100 B a run");
    let share = |partition| drawn.iter().filter(|drawn| **drawn == partition).count();
    assert_eq!(share(1), 0, "unavailable");
    assert!(share(0) < 250, "long queue: {}", share(0));
    assert!(share(2) > 1_500 && share(3) > 1_500, "{} and {}", share(2), share(3));
}

#[test]
fn sticky_partition_never_lies_beyond_the_topic() {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut sticky = StickyPartitioner::new(usize::MAX);
    let none = |_| PartitionLoad::default();
    for partitions in [8, 3, 1] {
        for _ in 0..20 {
            assert!((0..partitions).contains(&sticky.next(1, partitions, none, &mut rng)));
        }
    }
}

#[test]
fn names_are_those_of_the_configuration() {
    for name in [
        "default",
        "murmur2",
        "murmur2_random",
        "consistent",
        "consistent_random",
        "fnv1a",
        "fnv1a_random",
        "round_robin",
        "random",
        "manual",
    ] {
        let partitioner: Partitioner = name.parse().unwrap();
        assert_eq!(format!("{partitioner:?}"), name);
    }
    assert!("murmur3".parse::<Partitioner>().is_err());
}
