use super::*;

fn touched(partitions: &[(&str, i32)]) -> Touched {
    let partitions = partitions.iter().map(|&(topic, index)| (topic.to_owned(), index)).collect();
    Touched { partitions, key: Some("g".to_owned()) }
}

fn table(rule: Rule) -> FaultTable {
    let table = FaultTable::default();
    table.add(rule, None);
    table
}

#[test]
fn a_rule_hits_only_what_it_names() {
    let rule = Rule::new(Fault::DropBeforeApply).node(1).api(ApiKey::Produce).topic("t").partition(2).always();
    let table = table(rule);
    let hit = |node, api, partitions: &[(&str, i32)]| table.decide(NodeId(node), api, &touched(partitions)).drop_before;
    assert!(hit(1, ApiKey::Produce, &[("u", 2), ("t", 2)]));
    assert!(!hit(0, ApiKey::Produce, &[("t", 2)]), "another node");
    assert!(!hit(1, ApiKey::Fetch, &[("t", 2)]), "another api");
    assert!(!hit(1, ApiKey::Produce, &[("t", 1), ("u", 2)]), "another partition");
}

#[test]
fn the_nth_match_is_hit_and_as_often_as_said() {
    let table = table(Rule::new(Fault::DropAfterApply).api(ApiKey::Fetch).nth(2).times(2));
    let hits: Vec<bool> = (0..5).map(|_| table.decide(NodeId(0), ApiKey::Fetch, &touched(&[])).drop_after).collect();
    assert_eq!(hits, [false, true, true, false, false]);
}

#[test]
fn an_error_is_for_the_partitions_that_the_rule_names() {
    let table = table(Rule::new(Fault::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER)).topic("t").partition(1));
    let effects = table.decide(NodeId(0), ApiKey::Produce, &touched(&[("t", 0), ("t", 1)]));
    assert_eq!(effects.partition_error("t", 0, false), None);
    assert_eq!(effects.partition_error("t", 1, false), Some(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    assert_eq!(effects.partition_error("t", 1, true), None);
}

#[test]
fn a_key_must_match() {
    let table = table(Rule::new(Fault::MoveCoordinator { to: 2 }).key("other"));
    assert!(table.decide(NodeId(0), ApiKey::Heartbeat, &touched(&[])).changes.is_empty());
}
