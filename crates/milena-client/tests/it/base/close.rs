//! The end of a client: everything it started ends, within its deadline.

use std::time::Duration;

use milena_broker::{Broker, Fault, Rule};
use milena_client::RequestError;
use milena_client::raw::Target;
use milena_protocol::ApiKey;
use milena_protocol::messages::DescribeClusterRequest;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::links::client;

#[tokio::test(start_paused = true)]
async fn closing_ends_every_task_and_refuses_what_comes() {
    let broker = Broker::builder().nodes(3).topic("orders", 3).build();
    let alive = Handle::current().metrics().num_alive_tasks();
    let client = client(&broker).await;
    for node in client.metadata().nodes {
        client.raw().send(Target::Node(node.id), DescribeClusterRequest::default()).await.expect("an answer");
    }
    assert!(client.task_count() >= 4, "metadata and a connection to each node");

    let report = client.close(Duration::from_secs(10)).await;
    assert!(report.clean && report.aborted.is_empty(), "{report:?}");
    assert_eq!(client.task_count(), 0);
    let start = Instant::now();
    for error in [
        client.partitions("orders").await.map(drop).expect_err("closed"),
        client.refresh_metadata().await.map(drop).expect_err("closed"),
        client.raw().send(Target::Any, DescribeClusterRequest::default()).await.map(drop).expect_err("closed"),
    ] {
        assert!(matches!(error, RequestError::Closed), "{error:?}");
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(client.close(Duration::from_secs(1)).await.clean, "closing twice does no harm");
    broker.shutdown().await;
    assert!(Handle::current().metrics().num_alive_tasks() <= alive);
}

#[tokio::test(start_paused = true)]
async fn what_hangs_is_ended_at_the_deadline_and_named() {
    let broker = Broker::builder().build();
    let client = client(&broker).await;
    let forever = Duration::from_secs(100_000);
    broker.faults().add(Rule::new(Fault::Delay(forever)).api(ApiKey::DescribeCluster).always());
    let raw = client.raw();
    let hanging = tokio::spawn(async move { raw.send(Target::Any, DescribeClusterRequest::default()).await });
    while broker.requests().iter().all(|count| count.api != ApiKey::DescribeCluster) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let start = Instant::now();
    let report = client.close(Duration::from_secs(3)).await;
    assert!(!report.clean && report.aborted.contains(&"connection"), "{report:?}");
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    assert_eq!(client.task_count(), 0);
    assert!(hanging.await.expect("no panic").is_err(), "its caller is told");
}

#[tokio::test(start_paused = true)]
async fn a_request_in_flight_may_end_before_the_client_does() {
    let broker = Broker::builder().build();
    let client = client(&broker).await;
    broker.faults().add(Rule::new(Fault::Delay(Duration::from_secs(2))).api(ApiKey::DescribeCluster));
    let raw = client.raw();
    let call = tokio::spawn(async move { raw.send(Target::Any, DescribeClusterRequest::default()).await });
    while broker.requests().iter().all(|count| count.api != ApiKey::DescribeCluster) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let report = client.close(Duration::from_secs(10)).await;
    assert!(report.clean && report.elapsed >= Duration::from_secs(1), "{report:?}");
    call.await.expect("no panic").expect("its answer came");
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_dropped_closes_in_the_background() {
    let broker = Broker::builder().nodes(2).topic("orders", 2).build();
    let alive = Handle::current().metrics().num_alive_tasks();
    let client = client(&broker).await;
    client.partitions("orders").await.expect("it exists");
    let clone = client.clone();
    drop(client);
    clone.refresh_metadata().await.expect("a clone keeps it open");
    drop(clone);
    let start = Instant::now();
    while Handle::current().metrics().num_alive_tasks() > alive {
        assert!(start.elapsed() < Duration::from_secs(6), "tasks are left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn idle_connections_close_and_the_next_request_opens_them_anew() {
    let broker = Broker::builder().build();
    let client = client(&broker).await;
    let node = client.metadata().nodes[0].id;
    let raw = client.raw();
    let ask = || raw.send(Target::Node(node), DescribeClusterRequest::default());
    ask().await.expect("an answer");
    let open = client.task_count();
    // Metadata is refreshed every five minutes on the same connection; stretch nothing, just look long enough.
    tokio::time::sleep(Duration::from_secs(1_200)).await;
    assert!(client.task_count() <= open, "{} tasks, {open} before", client.task_count());
    ask().await.expect("an answer");
}
