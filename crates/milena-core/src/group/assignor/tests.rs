//! Golden vectors of Java's assignors, and what must hold of any assignment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;

use super::*;

const VECTORS: &str = include_str!("../../../../../testdata/java/assignors.txt");

#[derive(Default)]
struct Case {
    line: usize,
    assignor: String,
    topics: TopicRacks,
    members: Vec<GroupMember>,
    expected: BTreeMap<String, Vec<String>>,
}

fn list(text: &str) -> Vec<&str> {
    if text == "-" { Vec::new() } else { text.split('+').collect() }
}

fn partition(text: &str) -> TopicPartition {
    let (topic, partition) = text.split_once(':').unwrap();
    TopicPartition::new(topic, partition.parse().unwrap())
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (line, text) in VECTORS.lines().enumerate() {
        let mut words = text.split(' ');
        let kind = words.next().unwrap();
        let words: Vec<&str> = words.collect();
        if kind == "case" {
            cases.push(Case { line: line + 1, assignor: words[0].to_owned(), ..Case::default() });
            continue;
        }
        let case = cases.last_mut().unwrap();
        match kind {
            "topic" => {
                let racks = words[1..].iter().map(|racks| list(racks).into_iter().map(Arc::from).collect()).collect();
                case.topics.insert(Arc::from(words[0]), racks);
            }
            "member" => case.members.push(GroupMember {
                member_id: Arc::from(words[0]),
                instance_id: list(words[1]).first().map(|&id| Arc::from(id)),
                rack: list(words[2]).first().map(|&rack| Arc::from(rack)),
                generation: list(words[3]).first().map(|generation| generation.parse().unwrap()),
                topics: list(words[4]).into_iter().map(Arc::from).collect(),
                owned: list(words[5]).into_iter().map(partition).collect(),
            }),
            "expect" => {
                case.expected.insert(words[0].to_owned(), list(words[1]).into_iter().map(str::to_owned).collect());
            }
            _ => panic!("line {}: {text}", line + 1),
        }
    }
    cases
}

#[test]
fn results_equal_javas() {
    let cases = cases();
    assert!(cases.len() >= 400, "{} vectors", cases.len());
    let mut different = Vec::new();
    for case in &cases {
        let assignor: Assignor = case.assignor.parse().unwrap();
        let result: BTreeMap<String, Vec<String>> = assignor
            .assign(&case.topics, &case.members)
            .into_iter()
            .zip(&case.members)
            .map(|(mut partitions, member)| {
                partitions.sort_unstable();
                let names = partitions.iter().map(|tp| format!("{}:{}", tp.topic, tp.partition)).collect();
                (member.member_id.to_string(), names)
            })
            .collect();
        if result != case.expected {
            different.push((case.line, case.assignor.clone(), result, case.expected.clone()));
        }
    }
    assert!(different.is_empty(), "{} of {} differ, first: {:#?}", different.len(), cases.len(), different.first());
}

/// Groups of up to eight members on up to four topics, with racks.
fn groups() -> impl Strategy<Value = (TopicRacks, Vec<GroupMember>)> {
    let racks = prop::collection::vec(prop::sample::subsequence(vec!["ra", "rb", "rc"], 0..=3), 0..10);
    let topics = prop::collection::vec(racks, 1..5);
    let member = (prop::collection::vec(any::<bool>(), 5), prop::option::of(0..3usize), any::<u32>());
    (topics, prop::collection::vec(member, 1..9)).prop_map(|(topics, members)| {
        let topics: TopicRacks = topics
            .into_iter()
            .enumerate()
            .map(|(index, racks)| {
                let racks = racks.into_iter().map(|racks| racks.into_iter().map(Arc::from).collect()).collect();
                (Arc::from(format!("t{index}")), racks)
            })
            .collect();
        let members = members
            .into_iter()
            .enumerate()
            .map(|(index, (subscribed, rack, id))| GroupMember {
                member_id: Arc::from(format!("m{id}-{index}")),
                topics: topics
                    .keys()
                    .zip(subscribed)
                    .filter(|(_, yes)| *yes)
                    .map(|(topic, _)| Arc::clone(topic))
                    .collect(),
                rack: rack.map(|rack| Arc::from(["ra", "rb", "rc"][rack])),
                ..GroupMember::default()
            })
            .collect();
        (topics, members)
    })
}

fn subscribed_partitions(topics: &TopicRacks, members: &[GroupMember]) -> BTreeSet<TopicPartition> {
    topics
        .iter()
        .filter(|(topic, _)| members.iter().any(|member| member.topics.contains(topic)))
        .flat_map(|(topic, racks)| {
            (0..racks.len()).map(move |partition| TopicPartition::new(Arc::clone(topic), partition as i32))
        })
        .collect()
}

fn adopt(members: &mut [GroupMember], assignment: &[Vec<TopicPartition>], generation: i32) {
    for (member, partitions) in members.iter_mut().zip(assignment) {
        member.owned.clone_from(partitions);
        member.generation = Some(generation);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_partition_goes_to_exactly_one_subscriber((topics, members) in groups()) {
        for assignor in Assignor::ALL {
            let assignment = assignor.assign(&topics, &members);
            let mut seen = BTreeSet::new();
            for (member, partitions) in members.iter().zip(&assignment) {
                for tp in partitions {
                    prop_assert!(member.topics.contains(&tp.topic), "{assignor}: {tp} to a member without it");
                    prop_assert!(seen.insert(tp.clone()), "{assignor}: {tp} given twice");
                }
            }
            prop_assert_eq!(&seen, &subscribed_partitions(&topics, &members), "{}", assignor);
        }
    }

    #[test]
    fn sticky_is_even_and_stays((topics, mut members) in groups(), leaver in any::<prop::sample::Index>()) {
        let all: Vec<Arc<str>> = topics.keys().cloned().collect();
        for member in &mut members {
            member.topics.clone_from(&all);
            member.rack = None;
        }
        let first = Assignor::Sticky.assign(&topics, &members);
        let loads: Vec<usize> = first.iter().map(Vec::len).collect();
        prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{loads:?}");
        adopt(&mut members, &first, 1);
        prop_assert_eq!(&sorted(Assignor::Sticky.assign(&topics, &members)), &sorted(first), "nothing changed, nothing moves");
        if members.len() > 1 {
            members.remove(leaver.index(members.len()));
            let next = Assignor::Sticky.assign(&topics, &members);
            for (member, partitions) in members.iter().zip(&next) {
                for tp in &member.owned {
                    prop_assert!(partitions.contains(tp), "{tp} moved though its owner stayed and nobody came");
                }
            }
        }
    }

    #[test]
    fn cooperative_never_gives_what_another_still_holds((topics, mut members) in groups(), joiner in any::<u32>()) {
        // With racks and unequal subscriptions Java's search need not settle, and ours is Java's.
        members.iter_mut().for_each(|member| member.rack = None);
        let first = Assignor::CooperativeSticky.assign(&topics, &members);
        adopt(&mut members, &first, 1);
        let topics_of_joiner = topics.keys().cloned().collect();
        members.push(GroupMember { member_id: Arc::from(format!("j{joiner}")), topics: topics_of_joiner, ..GroupMember::default() });
        let second = Assignor::CooperativeSticky.assign(&topics, &members);
        for (index, partitions) in second.iter().enumerate() {
            for tp in partitions {
                let holder = members.iter().position(|member| member.owned.contains(tp));
                prop_assert!(holder.is_none_or(|holder| holder == index), "{tp} given before it was revoked");
            }
        }
        // Members with unequal subscriptions may take more than one round to settle.
        let mut last = second;
        for generation in 2..8 {
            adopt(&mut members, &last, generation);
            last = Assignor::CooperativeSticky.assign(&topics, &members);
        }
        let given: BTreeSet<TopicPartition> = last.iter().flatten().cloned().collect();
        prop_assert_eq!(given, subscribed_partitions(&topics, &members), "the rebalances that follow give the rest");
    }
}

fn sorted(mut assignment: Vec<Vec<TopicPartition>>) -> Vec<Vec<TopicPartition>> {
    assignment.iter_mut().for_each(|partitions| partitions.sort_unstable());
    assignment
}

#[test]
fn names_and_classes_are_kafkas() {
    for assignor in Assignor::ALL {
        assert_eq!(assignor.name().parse(), Ok(assignor));
    }
    assert_eq!("org.apache.kafka.clients.consumer.CooperativeStickyAssignor".parse(), Ok(Assignor::CooperativeSticky));
    assert!("best".parse::<Assignor>().is_err());
}
