use milena_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponsePartition};
use milena_protocol::{NodeId, Uuid};

use super::*;

/// A machine with its clock and chance, fed by answers made of a few numbers.
struct Bench {
    metadata: Metadata,
    now: Instant,
    rng: fastrand::Rng,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        let metadata = Metadata::new(now, MetadataConfig::default());
        Self { metadata, now, rng: fastrand::Rng::with_seed(3) }
    }

    /// A machine that has had its first answer, for the topic `orders`.
    fn with_orders(partitions: &[(i32, i32)]) -> Self {
        let mut bench = Self::new();
        bench.metadata.want(bench.now, "orders");
        bench.refresh(vec![topic("orders", 1, partitions)]);
        bench
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    fn query(&mut self) -> Option<MetadataQuery> {
        self.metadata.poll_query(self.now)
    }

    /// The topics that are asked for now, by name.
    fn names(&mut self) -> Vec<String> {
        let topics = self.query().expect("a query is due").topics.expect("not all topics");
        topics.iter().map(ToString::to_string).collect()
    }

    fn answer(&mut self, topics: Vec<MetadataResponseTopic>) -> bool {
        let response = response(topics);
        self.metadata.handle_response(self.now, &response, &mut self.rng).expect("a good answer")
    }

    fn refresh(&mut self, topics: Vec<MetadataResponseTopic>) -> bool {
        self.metadata.request_refresh_now();
        self.query().expect("a refresh was asked for");
        self.answer(topics)
    }

    fn leader(&self, index: i32) -> Option<(i32, Option<i32>)> {
        self.metadata.snapshot().leader("orders", index)
    }
}

fn response(topics: Vec<MetadataResponseTopic>) -> MetadataResponse {
    let broker = |node: i32| MetadataResponseBroker {
        node_id: NodeId(node),
        host: format!("broker-{node}").into(),
        port: 9092,
        ..MetadataResponseBroker::default()
    };
    MetadataResponse {
        brokers: (1..=3).map(broker).collect(),
        cluster_id: Some("c1".into()),
        controller_id: NodeId(2),
        topics,
        ..MetadataResponse::default()
    }
}

/// A topic with a leader and an epoch for each partition.
fn topic(name: &str, id: u128, partitions: &[(i32, i32)]) -> MetadataResponseTopic {
    let partition = |(index, (leader, epoch)): (usize, &(i32, i32))| MetadataResponsePartition {
        partition_index: index as i32,
        leader_id: NodeId(*leader),
        leader_epoch: *epoch,
        ..MetadataResponsePartition::default()
    };
    MetadataResponseTopic {
        name: Some(name.into()),
        topic_id: Uuid::from_u128(id),
        partitions: partitions.iter().enumerate().map(partition).collect(),
        ..MetadataResponseTopic::default()
    }
}

fn failed(name: &str, error_code: ErrorCode) -> MetadataResponseTopic {
    MetadataResponseTopic { error_code, ..topic(name, 0, &[]) }
}

#[test]
fn the_first_query_is_due_at_once_and_the_next_when_it_is_old() {
    let mut bench = Bench::new();
    let query = MetadataQuery { topics: Some(vec![]), allow_auto_create: false };
    assert_eq!(bench.query(), Some(query));
    assert_eq!(bench.query(), None, "one at a time");
    assert_eq!(bench.metadata.next_timeout(bench.now), None);
    assert!(bench.answer(vec![]));

    let max_age = bench.metadata.config.max_age;
    assert_eq!(bench.metadata.next_timeout(bench.now), Some(bench.now + max_age));
    bench.advance(max_age - Duration::from_millis(1));
    assert_eq!(bench.query(), None);
    bench.advance(Duration::from_millis(1));
    assert!(bench.query().is_some());
    assert!(!bench.answer(vec![]), "the same answer is no change");
}

#[test]
fn a_storm_of_errors_causes_one_refresh_per_backoff() {
    let mut bench = Bench::with_orders(&[(1, 5)]);
    let mut refreshes = 0;
    for _ in 0..10_000 {
        bench.metadata.request_refresh();
        if bench.query().is_some() {
            refreshes += 1;
            bench.answer(vec![topic("orders", 1, &[(1, 5)])]);
        }
        bench.advance(Duration::from_millis(1));
    }
    assert!((80..=126).contains(&refreshes), "{refreshes} refreshes in 10 s of errors");
}

#[test]
fn failures_back_off_to_a_second() {
    let mut bench = Bench::new();
    let mut waits = Vec::new();
    for _ in 0..8 {
        bench.query().expect("a query is due");
        bench.metadata.handle_failure(bench.now, &mut bench.rng);
        let due = bench.metadata.next_timeout(bench.now).expect("nothing is in flight");
        waits.push((due - bench.now).as_millis());
        bench.now = due;
    }
    assert!((80..=120).contains(&waits[0]) && waits[7] >= 800 && waits.iter().all(|wait| *wait <= 1_000), "{waits:?}");
}

#[test]
fn a_new_topic_is_asked_for_without_backoff() {
    let mut bench = Bench::with_orders(&[(1, 5)]);
    assert!(!bench.metadata.want(bench.now, "orders"));
    assert_eq!(bench.query(), None);
    assert!(bench.metadata.want(bench.now, "payments"));
    let names = bench.query().expect("something new is wanted").topics.expect("not all topics");
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["payments"], "and alone");
    // What becomes wanted meanwhile is asked for next, all at once.
    assert!(bench.metadata.want(bench.now, "refunds") && bench.metadata.want(bench.now, "audit"));
    let orders = Arc::clone(bench.metadata.snapshot().topic("orders").expect("known"));
    assert!(bench.answer(vec![topic("payments", 2, &[(1, 5)])]));
    assert_eq!(bench.names(), ["audit", "refunds"]);
    let snapshot = bench.metadata.snapshot();
    assert!(Arc::ptr_eq(&orders, snapshot.topic("orders").expect("not asked for, and still there")));
    assert_eq!(snapshot.topic_count(), 2, "and what was not asked for yet is not called missing");
}

#[test]
fn a_topic_left_open_is_asked_for_again_alone_and_with_backoff() {
    let mut bench = Bench::with_orders(&[(1, 5)]);
    bench.metadata.want(bench.now, "payments");
    bench.query().expect("it is new");
    bench.answer(vec![failed("payments", ErrorCode::LEADER_NOT_AVAILABLE)]);
    let mut waits = Vec::new();
    for _ in 0..6 {
        let due = bench.metadata.next_timeout(bench.now).expect("nothing is in flight");
        waits.push((due - bench.now).as_millis());
        bench.now = due;
        assert_eq!(bench.names(), ["payments"]);
        bench.answer(vec![failed("payments", ErrorCode::LEADER_NOT_AVAILABLE)]);
    }
    assert!(waits[0] <= 120 && waits[5] >= 800, "{waits:?}");
    // New ones do not wait for it, nor hasten it.
    let due = bench.metadata.next_timeout(bench.now).expect("nothing is in flight");
    bench.metadata.want(bench.now, "refunds");
    assert_eq!(bench.names(), ["refunds"]);
    bench.answer(vec![topic("refunds", 3, &[(1, 5)])]);
    assert_eq!((bench.query(), bench.metadata.next_timeout(bench.now)), (None, Some(due)));
    bench.now = due;
    assert_eq!(bench.names(), ["payments"]);
    bench.answer(vec![topic("payments", 2, &[(1, 5)])]);
    assert!(!bench.metadata.is_refreshing());
    // Once in a while all are asked for.
    bench.now += bench.metadata.config.max_age - Duration::from_secs(5);
    bench.metadata.want(bench.now, "orders");
    assert!(bench.metadata.next_timeout(bench.now) <= Some(bench.now + Duration::from_secs(5)));
}

#[test]
fn new_topics_in_a_stream_put_off_no_refresh_of_the_others() {
    let mut bench = Bench::with_orders(&[(1, 5)]);
    bench.metadata.request_refresh();
    let mut whole = 0;
    for number in 0..200 {
        let name = format!("t{number}");
        bench.metadata.want(bench.now, &name);
        whole += usize::from(bench.names().iter().any(|name| name == "orders"));
        bench.advance(Duration::from_millis(1));
        bench.answer(vec![topic("orders", 1, &[(1, 5)]), topic(&name, 100 + number, &[(1, 1)])]);
    }
    assert_eq!(whole, 1, "its backoff was over within 200 ms");
}

#[test]
fn a_query_without_answer_leaves_its_topics_to_be_asked_for_with_backoff() {
    let mut bench = Bench::with_orders(&[(1, 5)]);
    bench.metadata.want(bench.now, "payments");
    assert_eq!(bench.names(), ["payments"]);
    bench.metadata.handle_failure(bench.now, &mut bench.rng);
    assert_eq!(bench.query(), None);
    bench.now = bench.metadata.next_timeout(bench.now).expect("nothing is in flight");
    assert_eq!(bench.names(), ["payments"]);
}

#[test]
fn a_broker_that_is_gone_makes_all_be_asked_for_again() {
    let mut bench = Bench::with_orders(&[(3, 5)]);
    bench.metadata.want(bench.now, "payments");
    bench.query().expect("it is new");
    let mut answer = response(vec![topic("payments", 2, &[(1, 5)])]);
    answer.brokers.pop();
    let before = Arc::clone(bench.metadata.snapshot());
    bench.metadata.handle_response(bench.now, &answer, &mut bench.rng).expect("a good answer");
    assert!(!bench.metadata.snapshot().has_brokers_of(&before));
    assert_eq!(bench.leader(0), None);
    bench.now = bench.metadata.next_timeout(bench.now).expect("nothing is in flight");
    assert_eq!(bench.names(), ["orders", "payments"]);
}

#[test]
fn topics_that_have_changed_are_found() {
    let mut bench = Bench::with_orders(&[(1, 5)]);
    bench.metadata.want(bench.now, "audit");
    bench.refresh(vec![topic("orders", 1, &[(1, 5)]), topic("audit", 2, &[(1, 1)])]);
    let before = Arc::clone(bench.metadata.snapshot());
    assert!(!bench.refresh(vec![topic("orders", 1, &[(1, 5)]), topic("audit", 2, &[(1, 1)])]));
    assert!(bench.refresh(vec![topic("orders", 1, &[(2, 6)]), topic("audit", 2, &[(1, 1)])]));
    let since: Vec<_> = bench.metadata.snapshot().topics_since(&before).map(|topic| topic.name.to_string()).collect();
    assert_eq!(since, ["orders"]);
}

#[test]
fn with_all_topics_known_a_wanted_one_of_them_is_not_asked_for() {
    let mut bench = Bench::new();
    bench.metadata.pin_all();
    bench.refresh(vec![topic("orders", 1, &[(1, 5)])]);
    assert!(bench.metadata.want(bench.now, "orders"));
    assert_eq!(bench.query(), None);
    bench.metadata.want(bench.now, "payments");
    assert_eq!(bench.names(), ["payments"]);
}

#[test]
fn lower_epochs_are_refused_five_times_and_unknown_ones_taken() {
    let mut bench = Bench::with_orders(&[(1, 5)]);
    for _ in 0..5 {
        bench.refresh(vec![topic("orders", 1, &[(3, 4)])]);
        assert_eq!(bench.leader(0), Some((1, Some(5))), "an older view is not believed");
    }
    bench.refresh(vec![topic("orders", 1, &[(3, 4)])]);
    assert_eq!(bench.leader(0), Some((3, Some(4))), "but not refused for ever");

    bench.refresh(vec![topic("orders", 1, &[(2, 9)])]);
    bench.refresh(vec![topic("orders", 1, &[(1, -1)])]);
    assert_eq!(bench.leader(0), Some((1, None)), "an epoch that is not known is no lower one");
    bench.refresh(vec![topic("orders", 1, &[(3, 8)])]);
    assert_eq!(bench.leader(0), Some((1, None)), "nor does it wipe out what was seen");
}

#[test]
fn a_recreated_topic_starts_anew() {
    let mut bench = Bench::with_orders(&[(1, 5), (2, 7), (3, 6)]);
    assert!(bench.refresh(vec![topic("orders", 2, &[(2, 0)])]));
    assert_eq!(bench.leader(0), Some((2, Some(0))));
    assert_eq!(bench.metadata.snapshot().topic("orders").expect("known").partitions.len(), 1);
    assert!(bench.metadata.snapshot().topic_by_id(&Uuid::from_u128(1)).is_none());
    assert!(bench.metadata.snapshot().topic_by_id(&Uuid::from_u128(2)).is_some());
}

#[test]
fn an_older_view_takes_no_partitions_away() {
    let mut bench = Bench::with_orders(&[(1, 5), (2, 7)]);
    bench.refresh(vec![topic("orders", 1, &[(1, 5)])]);
    assert_eq!(bench.leader(1), Some((2, Some(7))));
}

#[test]
fn a_topic_missing_for_a_moment_keeps_its_state() {
    for gone in [vec![], vec![failed("orders", ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)]] {
        let mut bench = Bench::with_orders(&[(1, 5)]);
        bench.refresh(gone.clone());
        let topic = Arc::clone(bench.metadata.snapshot().topic("orders").expect("asked for"));
        assert_eq!((topic.error, topic.partitions.len()), (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, 1));
        assert!(bench.metadata.is_refreshing(), "it is asked for again soon");

        bench.advance(Duration::from_secs(29));
        bench.refresh(gone.clone());
        assert_eq!(bench.leader(0), Some((1, Some(5))));
        bench.advance(Duration::from_secs(1));
        bench.refresh(gone);
        assert_eq!(bench.leader(0), None, "a moment is over");
    }
}

#[test]
fn an_unwanted_topic_is_forgotten_unless_pinned() {
    let mut bench = Bench::with_orders(&[(1, 5)]);
    bench.metadata.pin(bench.now, "payments");
    bench.advance(Duration::from_secs(300));
    let names = bench.query().expect("old enough").topics.expect("not all topics");
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["payments"]);
    bench.answer(vec![topic("payments", 4, &[(1, 1)])]);
    assert!(bench.metadata.snapshot().topic("orders").is_none());

    bench.metadata.unpin(bench.now, "payments");
    bench.advance(Duration::from_secs(300));
    assert_eq!(bench.query().expect("old enough").topics, Some(vec![]));
}

#[test]
fn a_leaderless_partition_is_asked_for_again() {
    let mut bench = Bench::with_orders(&[(1, 5), (-1, 6)]);
    assert_eq!(bench.leader(1), None);
    let due = bench.metadata.next_timeout(bench.now).expect("nothing is in flight");
    assert!(due - bench.now <= Duration::from_millis(120));
    bench.now = due;
    bench.query().expect("the leader is still to be found");
    bench.answer(vec![topic("orders", 1, &[(1, 5), (2, 7)])]);
    assert!(!bench.metadata.is_refreshing());
}

#[test]
fn a_partition_led_by_a_broker_without_an_address_is_asked_for_again() {
    let mut bench = Bench::with_orders(&[(1, 5)]);
    assert_eq!(bench.query(), None, "all is known");
    // Broker 4 has just come back, and the one that answers knows that it leads, but not yet where it is.
    bench.refresh(vec![topic("orders", 1, &[(4, 6)])]);
    assert_eq!(bench.leader(0), None);
    bench.advance(Duration::from_millis(200));
    assert!(bench.query().is_some(), "once its backoff is over");
}

#[test]
fn all_topics_come_when_someone_wants_them() {
    let mut bench = Bench::with_orders(&[(1, 5)]);
    bench.metadata.pin_all();
    assert_eq!(bench.query().expect("all is new").topics, None);
    bench.answer(vec![topic("orders", 1, &[(1, 5)]), topic("audit", 9, &[(1, 1)])]);
    assert_eq!(bench.metadata.snapshot().topic_count(), 2);
    bench.metadata.unpin_all();
    bench.refresh(vec![topic("orders", 1, &[(1, 5)])]);
    assert_eq!(bench.metadata.snapshot().topic_count(), 1);
}

#[test]
fn bad_answers_are_refused_whole() {
    let mut bench = Bench::with_orders(&[(1, 5)]);
    let before = Arc::clone(bench.metadata.snapshot());
    let good = || response(vec![topic("orders", 1, &[(2, 9)])]);
    let other: Arc<str> = "c2".into();
    for (bad, wanted) in [
        (MetadataResponse { brokers: vec![], ..good() }, MetadataError::NoBrokers),
        (
            MetadataResponse { error_code: ErrorCode::REBOOTSTRAP_REQUIRED, ..good() },
            MetadataError::RebootstrapRequired,
        ),
        (
            MetadataResponse { error_code: ErrorCode::UNKNOWN_SERVER_ERROR, ..good() },
            MetadataError::Refused(ErrorCode::UNKNOWN_SERVER_ERROR),
        ),
        (
            MetadataResponse { cluster_id: Some("c2".into()), ..good() },
            MetadataError::OtherCluster { expected: "c1".into(), found: other },
        ),
    ] {
        bench.metadata.request_refresh_now();
        bench.query().expect("a refresh was asked for");
        assert_eq!(bench.metadata.handle_response(bench.now, &bad, &mut bench.rng), Err(wanted));
        assert!(Arc::ptr_eq(bench.metadata.snapshot(), &before));
        assert!(bench.metadata.is_refreshing(), "it is tried again");
    }
}

#[test]
fn odd_partitions_are_sorted_out() {
    let mut bench = Bench::new();
    bench.metadata.want(bench.now, "orders");
    let mut odd = topic("orders", 1, &[(1, 5), (2, 6), (3, 7)]);
    odd.partitions[0].partition_index = 70;
    odd.partitions[1].partition_index = -4;
    odd.partitions[2].partition_index = 3;
    odd.partitions.push(MetadataResponsePartition { leader_id: NodeId(1), ..odd.partitions[2].clone() });
    bench.refresh(vec![odd]);
    assert_eq!(bench.leader(70), Some((1, Some(5))));
    assert_eq!(bench.leader(3), Some((3, Some(7))), "the first of two wins");
    assert_eq!(bench.leader(-4), None);
    assert_eq!(bench.leader(0), None);
}

#[test]
fn a_new_start_is_due_when_nobody_answers() {
    let mut bench = Bench::with_orders(&[(1, 5)]);
    bench.metadata.handle_unreachable(1);
    bench.metadata.handle_unreachable(2);
    assert!(!bench.metadata.is_rebootstrap_due(bench.now));
    bench.metadata.handle_unreachable(3);
    assert!(bench.metadata.is_rebootstrap_due(bench.now), "no known broker can be reached");

    bench.metadata.rebootstrap(bench.now);
    assert!(!bench.metadata.is_rebootstrap_due(bench.now));
    assert_eq!(bench.metadata.snapshot().brokers().len(), 0);
    assert_eq!(bench.leader(0), None, "its address is not known");
    assert!(bench.metadata.snapshot().topic("orders").is_some(), "topics keep their state");
    bench.refresh(vec![topic("orders", 1, &[(1, 5)])]);
    assert_eq!(bench.leader(0), Some((1, Some(5))));

    bench.advance(Duration::from_secs(300));
    assert!(bench.metadata.is_rebootstrap_due(bench.now), "silent for too long");
}

#[test]
fn hint_of_a_later_leader_is_taken_with_its_address_and_no_stale_answer_undoes_it() {
    let mut bench = Bench::with_orders(&[(1, 5)]);
    let known = Arc::clone(bench.metadata.snapshot().topic("orders").unwrap());
    let hint =
        |node, epoch| LeaderHint { topic: Arc::clone(&known.name), topic_id: known.id, partition: 0, node, epoch };
    let address = |node| BrokerMetadata { node, host: "new".into(), port: 9, rack: None };
    assert!(!bench.metadata.handle_hints(&[hint(2, 5)], &[address(2)]), "not later");
    let generation = bench.metadata.snapshot().generation();
    assert!(bench.metadata.handle_hints(&[hint(9, 7)], &[address(9), address(8)]));
    assert_eq!(bench.leader(0), Some((9, Some(7))));
    let snapshot = bench.metadata.snapshot();
    assert_eq!((snapshot.generation(), snapshot.broker(8)), (generation + 1, None));
    assert_eq!(&*snapshot.broker(9).unwrap().host, "new");
    bench.refresh(vec![topic("orders", 1, &[(2, 6)])]);
    assert_eq!(bench.metadata.snapshot().partition("orders", 0).unwrap().leader_epoch, Some(7));
    let other = LeaderHint { topic_id: Uuid::from_bytes([7; 16]), ..hint(1, 9) };
    assert!(!bench.metadata.handle_hints(&[other], &[address(1)]), "of another topic of that name");
    // A broker that does not know epochs wipes out none that was seen.
    bench.refresh(vec![topic("orders", 1, &[(1, -1)])]);
    for late in [6, 7] {
        assert!(!bench.metadata.handle_hints(&[hint(2, late)], &[address(2)]), "{late} is no later than what was seen");
    }
    assert!(bench.metadata.handle_hints(&[hint(2, 8)], &[address(2)]));
    bench.refresh(vec![topic("orders", 1, &[(3, 7)])]);
    assert_eq!(bench.leader(0), Some((2, Some(8))));
}

#[test]
fn partitions_of_an_answer_share_their_lists_of_nodes_and_what_was_seen_of_them_is_kept_once() {
    let mut bench = Bench::new();
    bench.metadata.want(bench.now, "orders");
    let mut orders = topic("orders", 1, &[(1, 5), (1, 5), (2, 5)]);
    for (partition, nodes) in orders.partitions.iter_mut().zip([[1, 2], [1, 2], [2, 1]]) {
        partition.replica_nodes = nodes.map(NodeId).to_vec();
        partition.isr_nodes = vec![NodeId(1), NodeId(2)];
    }
    bench.refresh(vec![orders]);
    let snapshot = bench.metadata.snapshot();
    let [one, same, other] = [0, 1, 2].map(|index| snapshot.partition("orders", index).unwrap());
    assert!(Arc::ptr_eq(&one.replicas, &same.replicas) && Arc::ptr_eq(&one.replicas, &one.isr));
    assert_eq!((&*other.replicas, &*other.isr), (&[2, 1][..], &[1, 2][..]));
    assert!(Arc::ptr_eq(&one.replicas, &other.isr));
    assert!(bench.metadata.seen.is_empty(), "it is what is known");
}
