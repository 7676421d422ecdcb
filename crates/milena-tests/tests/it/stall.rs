//! A handler that blocks every worker: a client on a thread of its own keeps its membership, one that shares the
//! runtime loses it and says how long it stood still.

use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use milena_broker::Broker;
use milena_client::Client;
use milena_client::RuntimeChoice;
use milena_client::consumer::Consumer;
use milena_client::consumer::ConsumerEvent;
use tokio::time::timeout;
use tracing_subscriber::fmt::MakeWriter;

use crate::client::TIME_LIMIT;

const SESSION: Duration = Duration::from_secs(2);

/// What is logged, as it comes.
#[derive(Clone)]
struct Lines(mpsc::SyncSender<String>);

impl std::io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.try_send(String::from_utf8_lossy(line).into_owned()).map_err(std::io::Error::other)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// A member of the group that is called as its runtime.
async fn member(servers: &str, group: &str, runtime: RuntimeChoice) -> (Client, Consumer) {
    let client = Client::builder().bootstrap(servers).unwrap().runtime(runtime).build().await.unwrap();
    let consumer = Consumer::builder(&client)
        .group(group)
        .session_timeout(SESSION)
        .heartbeat_interval(SESSION / 8)
        .build()
        .unwrap();
    consumer.subscribe(["orders"]).unwrap();
    while !matches!(timeout(TIME_LIMIT, consumer.next()).await.unwrap().unwrap(), ConsumerEvent::Assigned(_)) {}
    (client, consumer)
}

/// How many members the group has.
async fn members(observer: &Client, group: &str) -> usize {
    let admin = milena_admin::Admin::new(observer);
    let described = admin.describe_groups(&[group]).await.unwrap().pop().unwrap();
    described.1.unwrap().members.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_runtime_is_logged_and_a_dedicated_one_keeps_its_membership() {
    let broker = Broker::builder().topic("orders", 1).config("group.min.session.timeout.ms", "100").build();
    let servers = broker.listen("127.0.0.1:0").await.unwrap()[0].to_string();
    let observer = Client::builder().bootstrap(&servers).unwrap().build().await.unwrap();

    let (lines, logged) = mpsc::sync_channel(1000);
    let (joined, both_joined) = tokio::sync::oneshot::channel();
    let (release, released) = mpsc::sync_channel::<()>(1);
    let (went_on, blocked) = tokio::sync::oneshot::channel();
    let (close, told) = tokio::sync::oneshot::channel();
    let application = std::thread::spawn(move || {
        let log = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::WARN);
        let _here = tracing::subscriber::set_default(log.with_writer(Lines(lines)).finish());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let shared = member(&servers, "shared", RuntimeChoice::Current).await;
            let dedicated = member(&servers, "dedicated", RuntimeChoice::Dedicated).await;
            joined.send(()).unwrap();
            // A handler, on the only worker that there is.
            let start = Instant::now();
            released.recv().unwrap();
            went_on.send(start.elapsed()).unwrap();
            // Until the stall is told: whoever closes at once may be gone before the watch has its turn.
            told.await.unwrap();
            dedicated.1.close(TIME_LIMIT).await.unwrap();
            drop(shared);
            dedicated.0.close(TIME_LIMIT).await;
        });
    });
    both_joined.await.unwrap();
    let expelled = async {
        while members(&observer, "shared").await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(TIME_LIMIT, expelled).await.expect("the shared member's session ends");
    assert_eq!(members(&observer, "dedicated").await, 1, "its heartbeats went on");
    release.send(()).unwrap();

    let blocked = blocked.await.unwrap();
    let lengths = blocked.as_millis().saturating_sub(1000)..=blocked.as_millis() + 1000;
    let tells = move |line: &String| {
        let length = line.split_once("stalled_ms=").and_then(|(_, rest)| rest.split_whitespace().next());
        length.is_some_and(|length| lengths.contains(&length.parse().unwrap()))
    };
    // A machine that is busy may have stalled before.
    let line = tokio::task::spawn_blocking(move || {
        let mut others = Vec::new();
        loop {
            match logged.recv_timeout(TIME_LIMIT) {
                Ok(line) if tells(&line) => return line,
                Ok(line) => others.push(line),
                Err(error) => panic!("{error}: after {blocked:?} {others:?}"),
            }
        }
    });
    let line = line.await.unwrap();
    assert!(line.contains("RuntimeChoice::Dedicated"), "{line}");
    close.send(()).unwrap();
    tokio::task::spawn_blocking(|| application.join().unwrap()).await.unwrap();
}
