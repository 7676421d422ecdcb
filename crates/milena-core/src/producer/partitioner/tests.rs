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

fn equal(_: i32) -> PartitionLoad {
    PartitionLoad { has_leader: true, ..PartitionLoad::default() }
}

#[test]
fn partition_is_kept_for_a_batch_and_given_up_at_the_end_of_one() {
    let sticky = StickyPartition::new(1_000);
    assert_eq!(sticky.current(4), None);
    sticky.switch_to(3);
    let switches = |is_full: fn(u32) -> bool| {
        sticky.switch_to(3);
        (1..).find(|record| sticky.appended(3, 100, is_full(*record))).unwrap()
    };
    assert_eq!(switches(|record| record == 10), 10, "the batch is full at batch.size");
    assert_eq!(switches(|record| record == 5 || record == 15), 15, "five records were already in the batch");
    assert_eq!(switches(|_| false), 20, "twice batch.size at the most");
    assert!(sticky.is_due(3, false) && !sticky.is_due(2, false), "for whoever comes first");
    sticky.switch_to(2);
    assert!(!sticky.is_due(3, true) && !sticky.is_due(2, true), "and no longer");
    assert!(!sticky.appended(3, 5_000, true), "what goes elsewhere doesn't count");
    assert_eq!((sticky.current(4), sticky.current(2)), (Some(2), None), "never beyond the topic");
}

#[test]
fn share_of_a_partition_falls_with_its_queue() {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut table = LoadTable::new(true);
    // The example of KIP-794: queues of 0, 3 and 1 batches are drawn as 4 to 1 to 3.
    let load = |partition: i32| PartitionLoad { queued: [0, 3, 1][partition as usize], ..equal(partition) };
    let mut shares = [0; 3];
    for _ in 0..80_000 {
        shares[table.draw(3, rng.u32(..), load) as usize] += 1;
    }
    for (share, expected) in shares.into_iter().zip([40_000_i32, 10_000, 30_000]) {
        assert!((expected - share).abs() < 600, "{shares:?}");
    }
    let mut table = LoadTable::new(false);
    let mut shares = [0; 3];
    for _ in 0..30_000 {
        shares[table.draw(3, rng.u32(..), load) as usize] += 1;
    }
    assert!(shares.iter().all(|share| (9_400..10_600).contains(share)), "not adaptive: {shares:?}");
}

#[test]
fn large_topic_is_not_looked_through_at_each_draw_and_its_leaders_are_up_to_date() {
    let looks = std::cell::Cell::new(0_usize);
    let lost = std::cell::Cell::new(false);
    let load = |partition: i32| {
        looks.set(looks.get() + 1);
        PartitionLoad { has_leader: !lost.get() || partition >= 5_000, ..equal(partition) }
    };
    let mut rng = fastrand::Rng::with_seed(3);
    let mut table = LoadTable::new(true);
    for _ in 0..3_200 {
        table.draw(10_000, rng.u32(..), load);
    }
    assert!(looks.get() < 3_200 * 80, "{} looks in 3,200 draws", looks.get());
    table.draw(10_000, rng.u32(..), load);
    lost.set(true);
    for _ in 0..1_000 {
        assert!(table.draw(10_000, rng.u32(..), load) >= 5_000, "half of the leaders were lost since");
    }
    assert!((0..3).contains(&table.draw(3, rng.u32(..), load)), "the topic has fewer partitions now");
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
        "sarama_reference_hash",
        "sarama_consistent_crc",
        "round_robin",
        "random",
        "manual",
    ] {
        let partitioner: Partitioner = name.parse().unwrap();
        assert_eq!(format!("{partitioner:?}"), name);
    }
    assert!(matches!("sarama_hash".parse(), Ok(Partitioner::Fnv1aRandom)));
    assert!("murmur3".parse::<Partitioner>().is_err());
}
