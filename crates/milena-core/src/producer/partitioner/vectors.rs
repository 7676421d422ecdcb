//! Golden vectors from the clients that the partitioners are named after: `testdata/partitioners/README.md` says how they
//! were made.

use super::*;

const OF_KEYS: [&str; 3] = [
    include_str!("../../../../../testdata/partitioners/java.txt"),
    include_str!("../../../../../testdata/partitioners/librdkafka.txt"),
    include_str!("../../../../../testdata/partitioners/sarama.txt"),
];
const OF_DRAWS: &str = include_str!("../../../../../testdata/partitioners/sticky.txt");

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

/// `-` is no key, `=HEX` one, `=HEX*N` one of so many repetitions.
fn key(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_prefix('=')?;
    let (piece, times) = text.split_once('*').unwrap_or((text, "1"));
    let piece: Vec<_> =
        (0..piece.len()).step_by(2).map(|at| u8::from_str_radix(&piece[at..at + 2], 16).unwrap()).collect();
    Some(piece.repeat(times.parse().unwrap()))
}

#[test]
fn keys_go_where_every_client_puts_them() {
    let mut checked = 0;
    for text in OF_KEYS {
        let mut partitions = Vec::new();
        for line in lines(text) {
            let (name, rest) = line.split_once(' ').unwrap();
            if name == "partitions" {
                partitions = rest.split(' ').map(|count| count.parse::<i32>().unwrap()).collect();
                continue;
            }
            let partitioner: Partitioner = name.parse().unwrap();
            let (written, places) = rest.split_once(' ').unwrap();
            let key = key(written);
            for (count, place) in partitions.iter().zip(places.split(' ')) {
                let expected = match place {
                    "sticky" => Choice::Sticky,
                    "random" => Choice::Random,
                    // Of one partition a random one can't be told from a fixed one.
                    "0" if *count == 1 && partitioner.choose("t", key.as_deref(), None, 2) == Choice::Random => {
                        Choice::Random
                    }
                    place => Choice::Partition(place.parse().unwrap()),
                };
                let choice = partitioner.choose("t", key.as_deref(), None, *count);
                assert_eq!(choice, expected, "{name} of {written} among {count}");
                checked += 1;
            }
        }
    }
    // 107 keys, 24 partition counts, 1 + 6 + 3 partitioners.
    assert_eq!(checked, 107 * 24 * 10);
}

#[test]
fn draws_are_those_of_java() {
    let mut checked = 0;
    for line in lines(OF_DRAWS) {
        let (case, drawn) = line.split_once(" = ").unwrap();
        let mut words = case.split(' ');
        assert_eq!(words.next(), Some("draw"));
        let rack = words.next().unwrap();
        let loads: Vec<_> = words
            .map(|word| {
                let (queued, leader) = word.split_once(':').unwrap();
                PartitionLoad {
                    queued: queued.parse().unwrap(),
                    has_leader: leader != "-",
                    is_slow: leader.starts_with('!'),
                    is_near: rack != "." && leader.trim_start_matches('!') == rack,
                }
            })
            .collect();
        for draw in drawn.split(' ') {
            let (random, partition) = draw.split_once(':').unwrap();
            let mut table = LoadTable::new(true);
            let drawn = table.draw(loads.len() as i32, random.parse().unwrap(), |partition| loads[partition as usize]);
            assert_eq!(drawn, partition.parse::<i32>().unwrap(), "{random} in {case}");
            checked += 1;
        }
    }
    assert_eq!(checked, 400 * 24);
}
