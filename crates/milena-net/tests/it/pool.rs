//! The pool: one dial at a time, backoff, addresses that change, an orderly end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use milena_net::{Broker, BrokerAddress, ConnectError, Connector, Pool, PoolConfig, Purpose, TaskSet};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use crate::peer::{Peer, Stage, request, tasks};

fn broker_address(port: i32) -> BrokerAddress {
    BrokerAddress::new("broker", port).expect("an address")
}

struct Bench {
    pool: Pool,
    stage: Arc<Stage>,
    tasks: TaskSet,
}

/// A pool that knows broker 1, and peers that echo.
fn bench() -> (Bench, UnboundedReceiver<Peer>) {
    let (stage, peers) = Stage::new(1024);
    let tasks = tasks();
    let connector = Arc::clone(&stage) as Arc<dyn Connector>;
    let pool = Pool::new(connector, PoolConfig::default(), tasks.clone(), fastrand::Rng::with_seed(1));
    pool.update_brokers(BTreeMap::from([(1, broker_address(9092))]));
    (Bench { pool, stage, tasks }, peers)
}

fn echo_all(mut peers: UnboundedReceiver<Peer>) {
    tokio::spawn(async move {
        while let Some(mut peer) = peers.recv().await {
            tokio::spawn(async move {
                peer.handshake().await;
                peer.echo().await;
            });
        }
    });
}

const ONE: Broker = Broker::Node(1);

#[tokio::test]
async fn many_callers_share_one_dial_and_one_connection() {
    let (bench, peers) = bench();
    echo_all(peers);
    let calls = (0..50).map(|_| {
        let pool = bench.pool.clone();
        tokio::spawn(async move { pool.get(&ONE, Purpose::General).await.expect("a connection") })
    });
    let mut connections = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        connections.push(call.await.expect("no panic"));
    }
    assert_eq!(bench.stage.dials.load(Relaxed), 1);
    assert!(connections.windows(2).all(|pair| pair[0].is_same(&pair[1])));
    let produce = bench.pool.get(&ONE, Purpose::Produce).await.expect("a connection");
    assert!(!produce.is_same(&connections[0]), "each purpose has its own");
    assert_eq!(bench.pool.open_connections(), 2);
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_the_dial_to_the_others() {
    let (bench, mut peers) = bench();
    let impatient = tokio::spawn({
        let pool = bench.pool.clone();
        async move { drop(pool.get(&ONE, Purpose::General).await) }
    });
    let mut peer = peers.recv().await.expect("a dial");
    impatient.abort();
    drop(impatient.await);
    let patient = tokio::spawn({
        let pool = bench.pool.clone();
        async move { pool.get(&ONE, Purpose::General).await }
    });
    peer.handshake().await;
    assert!(patient.await.expect("no panic").is_ok());
    assert_eq!(bench.stage.dials.load(Relaxed), 1);
}

#[tokio::test]
async fn trying_never_waits_but_starts_a_dial() {
    let (bench, peers) = bench();
    echo_all(peers);
    assert!(bench.pool.try_get(&ONE, Purpose::Produce).is_none());
    bench.pool.get(&ONE, Purpose::Produce).await.expect("a connection");
    assert!(bench.pool.try_get(&ONE, Purpose::Produce).is_some());
    assert_eq!(bench.stage.dials.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn failed_dials_back_off_from_50_ms_to_a_second() {
    let (bench, peers) = bench();
    echo_all(peers);
    bench.stage.refuse.store(8, Relaxed);
    for _ in 0..8 {
        let outcome = bench.pool.get(&ONE, Purpose::General).await;
        assert!(matches!(outcome, Err(ConnectError::Unreachable { .. })), "{outcome:?}");
        assert!(bench.pool.try_get(&ONE, Purpose::General).is_none(), "nothing is dialled in the backoff");
        assert!(bench.pool.backoff(&ONE).is_some());
    }
    bench.pool.get(&ONE, Purpose::General).await.expect("the ninth succeeds");
    assert!(bench.pool.backoff(&ONE).is_none());
    let dialed = bench.stage.dialed.lock().expect("no panic holds it").iter().map(|dial| dial.1).collect::<Vec<_>>();
    let waits = dialed.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect::<Vec<_>>();
    assert_eq!(waits.len(), 8);
    assert!((40..=62).contains(&waits[0]), "{waits:?}");
    assert!((80..=122).contains(&waits[1]), "{waits:?}");
    assert!(waits[5..].iter().all(|wait| (798..=1_002).contains(wait)), "{waits:?}");
}

#[tokio::test]
async fn a_connection_that_ended_is_replaced() {
    let (bench, peers) = bench();
    echo_all(peers);
    let first = bench.pool.get(&ONE, Purpose::General).await.expect("a connection");
    first.close();
    first.closed().await;
    let second = bench.pool.get(&ONE, Purpose::General).await.expect("another");
    assert!(!first.is_same(&second));
    second.call(request("alive")).await.expect("an answer");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_hangs_up_after_each_welcome_is_left_alone_for_longer_and_longer() {
    // The second stays for a while each time: longer than the first pause.
    for stay in [Duration::ZERO, Duration::from_millis(70)] {
        let (bench, mut peers) = bench();
        tokio::spawn(async move {
            while let Some(mut peer) = peers.recv().await {
                peer.handshake().await;
                tokio::time::sleep(stay).await;
            }
        });
        for _ in 0..8 {
            let connection = bench.pool.get(&ONE, Purpose::General).await.expect("a welcome");
            connection.closed().await;
        }
        let dialed = bench.stage.dialed.lock().expect("no panic holds it").clone();
        let waits = dialed.windows(2).map(|pair| (pair[1].1 - pair[0].1).as_millis()).collect::<Vec<_>>();
        for (wait, pause) in waits.iter().zip([50, 100, 200, 400, 800, 1_000, 1_000]) {
            // Spread by a fifth, as between dials that fail.
            let least = (pause * 4 / 5).max(stay.as_millis());
            assert!((least..=(pause * 6 / 5).min(1_000).max(least) + 1).contains(wait), "{stay:?}: {waits:?}");
        }
        assert_eq!(waits.len(), 7);
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_hangs_up_after_a_while_of_peace_is_dialled_as_at_first() {
    let (bench, mut peers) = bench();
    let (hang_up, mut stays) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        while let (Some(mut peer), Some(stay)) = (peers.recv().await, stays.recv().await) {
            peer.handshake().await;
            tokio::time::sleep(Duration::from_millis(stay)).await;
        }
    });
    let mut waits = Vec::new();
    for stay in [0, 0, 0, 1_500, 0, 0] {
        hang_up.send(stay).await.expect("the broker runs");
        let connection = bench.pool.get(&ONE, Purpose::General).await.expect("a welcome");
        connection.closed().await;
        waits.push(match bench.pool.try_get(&ONE, Purpose::General) {
            _ if bench.pool.backoff(&ONE).is_none() => 0,
            _ => bench.pool.backoff(&ONE).expect("looked at it").duration_since(Instant::now()).as_millis(),
        });
    }
    let expected = [(40, 60), (80, 120), (160, 240), (0, 0), (40, 60), (80, 120)];
    let is_near = |(wait, (least, most)): (&u128, (u128, u128))| (least..=most).contains(wait);
    assert!(waits.iter().zip(expected).all(is_near), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn connections_that_one_blow_ended_count_once() {
    let (bench, mut peers) = bench();
    let mut open = Vec::new();
    for purpose in [Purpose::General, Purpose::Produce, Purpose::Fetch, Purpose::Coordination] {
        assert!(bench.pool.try_get(&ONE, purpose).is_none());
        let mut peer = peers.recv().await.expect("a dial");
        peer.handshake().await;
        open.push((bench.pool.get(&ONE, purpose).await.expect("a welcome"), peer));
    }
    tokio::time::advance(Duration::from_millis(1)).await;
    let mut wait = Duration::ZERO;
    for (connection, peer) in open {
        drop(peer);
        connection.closed().await;
        assert!(bench.pool.try_get(&ONE, Purpose::Own(1)).is_none());
        wait = bench.pool.backoff(&ONE).expect("it hung up").duration_since(Instant::now());
    }
    assert!((39..=60).contains(&wait.as_millis()), "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dial_for_another_purpose_or_broker_does_not_shorten_the_pause_after_a_hang_up() {
    let (bench, mut peers) = bench();
    bench.pool.update_brokers(BTreeMap::from([(1, broker_address(9092)), (2, broker_address(9093))]));
    // Hangs up on the first of each two.
    tokio::spawn(async move {
        while let Some(mut peer) = peers.recv().await {
            peer.handshake().await;
            drop(peer);
            let Some(mut peer) = peers.recv().await else { return };
            peer.handshake().await;
            tokio::spawn(peer.echo());
        }
    });
    // The shortest that chance may choose.
    let pause = Duration::from_millis(40);
    for (round, other) in [(Broker::Node(2), Purpose::General), (ONE, Purpose::Produce)].into_iter().enumerate() {
        let connection = bench.pool.get(&ONE, Purpose::General).await.expect("a welcome");
        let welcomed = Instant::now();
        connection.closed().await;
        bench.pool.get(&other.0, other.1).await.expect("a connection");
        assert!(other.0 != ONE || welcomed.elapsed() >= pause, "{:?} waits with the others", other.1);
        let dials = 2 * round + 2;
        assert_eq!(bench.stage.dials.load(Relaxed), dials);
        if welcomed.elapsed() < pause {
            assert!(bench.pool.try_get(&ONE, Purpose::General).is_none());
            assert_eq!(bench.stage.dials.load(Relaxed), dials, "{other:?}: nothing is dialled within the pause");
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dial_under_way_that_succeeds_does_not_end_the_pause_after_a_hang_up() {
    let (bench, mut peers) = bench();
    assert!(bench.pool.try_get(&ONE, Purpose::General).is_none());
    let mut hangs_up = peers.recv().await.expect("a dial");
    assert!(bench.pool.try_get(&ONE, Purpose::Produce).is_none());
    let mut serves = peers.recv().await.expect("another dial");
    hangs_up.handshake().await;
    drop(hangs_up);
    let welcomed = Instant::now();
    let connection = bench.pool.get(&ONE, Purpose::General).await.expect("a welcome");
    connection.closed().await;
    assert!(bench.pool.try_get(&ONE, Purpose::General).is_none());
    assert!(bench.pool.backoff(&ONE).is_some(), "it has hung up");

    serves.handshake().await;
    bench.pool.get(&ONE, Purpose::Produce).await.expect("the dial that was under way");
    assert!(bench.pool.try_get(&ONE, Purpose::General).is_none());
    assert_eq!(bench.stage.dials.load(Relaxed), 2, "within the pause nothing is dialled");
    echo_all(peers);
    bench.pool.get(&ONE, Purpose::General).await.expect("a welcome");
    assert!((40..=61).contains(&welcomed.elapsed().as_millis()), "{:?}", welcomed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_we_closed_ourselves_makes_nobody_wait() {
    let (bench, peers) = bench();
    echo_all(peers);
    let start = Instant::now();
    let own = bench.pool.get(&ONE, Purpose::Own(1)).await.expect("a connection");
    own.close();
    own.closed().await;
    bench.pool.get(&ONE, Purpose::General).await.expect("a connection");
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_broker_that_moved_is_dialled_where_it_is_now() {
    let (bench, mut peers) = bench();
    let get = tokio::spawn({
        let pool = bench.pool.clone();
        async move { pool.get(&ONE, Purpose::General).await.expect("a connection") }
    });
    let mut old = peers.recv().await.expect("a dial");
    old.handshake().await;
    let connection = get.await.expect("no panic");
    let call = tokio::spawn({
        let connection = connection.clone();
        async move { connection.call(request("old")).await.map(drop) }
    });
    let (header, _) = old.request().await.expect("the request");

    bench.pool.update_brokers(BTreeMap::from([(1, broker_address(9093))]));
    echo_all(peers);
    let moved = bench.pool.get(&ONE, Purpose::General).await.expect("a connection");
    assert_eq!(moved.address(), &broker_address(9093));
    old.reply(header.correlation_id, b"").await;
    call.await.expect("no panic").expect("what was in flight is still answered");
    connection.closed().await;

    bench.pool.update_brokers(BTreeMap::new());
    let outcome = bench.pool.get(&ONE, Purpose::General).await;
    assert!(matches!(outcome, Err(ConnectError::UnknownBroker { node: 1 })), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_late_failure_at_an_old_address_holds_up_no_dial_to_the_new_one() {
    let (bench, mut peers) = bench();
    assert!(bench.pool.try_get(&ONE, Purpose::General).is_none());
    let old = peers.recv().await.expect("a dial");
    bench.pool.update_brokers(BTreeMap::from([(1, broker_address(9093))]));
    drop(old);
    // What had the old dial fail has run by then, and its pause would be 50 ms.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let start = Instant::now();
    echo_all(peers);
    let moved = bench.pool.get(&ONE, Purpose::General).await.expect("a connection");
    assert_eq!((moved.address(), start.elapsed()), (&broker_address(9093), Duration::ZERO));
}

#[tokio::test]
async fn what_is_retired_is_closed_open_or_not_and_nothing_else_is() {
    let (bench, mut peers) = bench();
    let (ours, others) = (Purpose::Own(1), Purpose::Own(2));
    let (open, other) = {
        let play = async {
            for _ in 0..2 {
                let mut peer = peers.recv().await.expect("a dial");
                peer.handshake().await;
                tokio::spawn(peer.echo());
            }
        };
        let (open, other, ()) = tokio::join!(bench.pool.get(&ONE, ours), bench.pool.get(&ONE, others), play);
        (open.expect("a connection"), other.expect("a connection"))
    };
    bench.pool.update_brokers(BTreeMap::from([(1, broker_address(9092)), (2, broker_address(9093))]));
    assert!(bench.pool.try_get(&Broker::Node(2), ours).is_none());
    let mut opening = peers.recv().await.expect("a dial that nobody waits for");

    bench.pool.retire(ours);
    open.closed().await;
    opening.handshake().await;
    assert!(opening.request().await.is_none(), "closed as soon as it is open");
    other.call(request("still")).await.expect("an answer");
    assert_eq!(bench.pool.open_connections(), 1);
}

#[tokio::test]
async fn closing_ends_every_task_and_refuses_what_comes() {
    let (bench, mut peers) = bench();
    // One connection open, one request on it unanswered, one dial in the middle of its handshake.
    let get = tokio::spawn({
        let pool = bench.pool.clone();
        async move { pool.get(&ONE, Purpose::General).await.expect("a connection") }
    });
    let mut peer = peers.recv().await.expect("a dial");
    peer.handshake().await;
    let connection = get.await.expect("no panic");
    let call = tokio::spawn(async move { connection.call(request("open")).await });
    assert!(bench.pool.try_get(&ONE, Purpose::Fetch).is_none());
    let mut dialing = peers.recv().await.expect("another dial");
    peer.request().await.expect("the request");
    assert_eq!(bench.tasks.len(), 3, "two connections and a dial: {:?}", bench.tasks.names());

    bench.tasks.close();
    bench.pool.close_all().await;
    call.await.expect("no panic").expect_err("closed under it");
    dialing.handshake().await;
    tokio::time::timeout(Duration::from_secs(10), bench.tasks.join()).await.expect("every task ends");
    assert!(matches!(bench.pool.get(&ONE, Purpose::General).await, Err(ConnectError::Closed)));
}
