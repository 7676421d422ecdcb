//! `milena demo`: 20,000 departures through the event bus, some of them troublesome on purpose.

mod flight;
mod ledger;
mod summary;
mod view;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use milena::{Bus, Delivery, FailurePolicy, OpenError, StartAt, Subscription, SubscriptionStatus, Then};
use milena_admin::{Admin, RequestError};

use self::flight::{Departed, Flight, Trouble};
use self::ledger::Ledger;
use self::summary::{Summary, thousands};
use self::view::View;
use crate::args::DemoArgs;
use crate::connect;
use crate::failure::{Failure, Trying as _, told};
use crate::interrupt::interrupted;
use crate::stdout;

const GROUP_ID_NOT_FOUND: i16 = 69;
/// Events of one call to `publish_batch`.
const BATCH: usize = 256;
/// Longest time that nothing may happen before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(60);
const CLOSE: Duration = Duration::from_secs(20);

/// Why a handler refused an event, on purpose.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the tower did not answer")]
    Tower,
    #[error("no such runway")]
    Runway,
}

/// What the handlers and the demo share.
struct Run {
    id: String,
    started: Instant,
    ledger: Mutex<Ledger>,
    view: View,
}

impl Run {
    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn handle(&self, delivery: Delivery<Departed>) -> Result<(), Refused> {
        let departed = delivery.event();
        if departed.run != self.id {
            return Ok(());
        }
        let fails = match departed.trouble {
            Trouble::Poison => Some(Refused::Runway),
            Trouble::FirstAttemptFails if delivery.attempt() == 1 => Some(Refused::Tower),
            Trouble::FirstAttemptFails | Trouble::None => None,
        };
        if let Some(refused) = fails {
            return Err(refused);
        }
        let latency = Duration::from_micros(self.elapsed_us().saturating_sub(departed.published_us));
        self.ledger().handled(&departed.origin, departed.place, departed.delay_minutes, latency);
        self.view.handled.inc(1);
        Ok(())
    }
}

pub(crate) async fn run(args: DemoArgs) -> Result<(), Failure> {
    let flights = flight::read(args.flights.as_deref())?;
    let cluster = args.bootstrap.servers.as_deref();
    let place = match cluster {
        Some(servers) => format!("Kafka at {servers}"),
        None => "an embedded broker in this process".to_owned(),
    };
    connect::say_where(&place);
    let bus = open(cluster).await?;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let run = Arc::new(Run {
        id: format!("{}-{}", std::process::id(), since_1970.as_millis()),
        started: Instant::now(),
        ledger: Mutex::new(Ledger::new()),
        view: View::new(flights.len() as u64),
    });
    let group = format!("milena-demo-{}", run.id);
    let outcome = tokio::select! {
        outcome = replay(&bus, &run, &group, &flights) => outcome,
        interrupted = interrupted() => Err(match interrupted {
            Ok(()) => Failure::Failed("interrupted before it was done".to_owned()),
            Err(error) => Failure::of("cannot wait for a signal", &error),
        }),
    };
    run.view.end();
    let report = bus.close(CLOSE).await;
    if let Some(servers) = cluster {
        connect::clean_up(servers, &format!("group {group}"), async |admin| delete_group(&admin, &group).await).await;
    }
    let summary = outcome?;
    if args.json {
        stdout::line(serde_json::to_string(&summary).expect("numbers and names always serialize"))?;
    } else {
        stdout::text(&summary.to_text(&place))?;
    }
    if !report.is_complete() {
        return Err(Failure::Failed(format!("the bus did not close completely: {report:?}")));
    }
    match summary.complaint() {
        None => Ok(()),
        Some(complaint) => Err(Failure::Failed(complaint)),
    }
}

async fn open(cluster: Option<&str>) -> Result<Bus, Failure> {
    let Some(servers) = cluster else { return Bus::embedded().await.trying("cannot open an embedded bus") };
    let mut builder = Bus::builder().kafka(servers).client_id(connect::CLIENT_ID);
    for (key, value) in connect::PATIENCE {
        builder = builder.set(key, value);
    }
    builder.open().await.map_err(|error| match error {
        OpenError::Config(error) => Failure::Usage(error.to_string()),
        error => Failure::Failed(told(&error)),
    })
}

/// The group is of this run alone, so nobody misses it.
async fn delete_group(admin: &Admin, group: &str) -> Result<(), RequestError> {
    for (_, deleted) in admin.delete_groups(&[group]).await? {
        match deleted {
            // It did not get so far as to make it.
            Err(error) if error.error_code() == Some(GROUP_ID_NOT_FOUND) => {}
            deleted => deleted?,
        }
    }
    Ok(())
}

async fn replay(bus: &Bus, run: &Arc<Run>, group: &str, flights: &[Flight]) -> Result<Summary, Failure> {
    let policy = FailurePolicy::attempts(3)
        .backoff(Duration::from_millis(20), Duration::from_millis(200))
        .then(Then::DeadLetter);
    let handlers = Arc::clone(run);
    let subscription = bus
        .subscribe(policy, move |delivery: Delivery<Departed>| {
            let run = Arc::clone(&handlers);
            async move { run.handle(delivery).await }
        })
        .group(group)
        // The events of other runs on the same cluster are none of this one's business.
        .start_at(StartAt::Latest)
        .await
        .trying("cannot subscribe")?;
    ready(&subscription).await?;
    let started = Instant::now();
    let expected = flights.len() as u64;
    let (published, status) = tokio::try_join!(publish(bus, run, flights), settled(&subscription, run, expected))?;
    let seconds = started.elapsed().as_secs_f64();
    let ledger = run.ledger();
    Ok(Summary {
        published,
        handled: ledger.handled,
        repeated: ledger.repeated,
        retried: status.counts.retried,
        dead_lettered: status.counts.dead_lettered,
        order_violations: ledger.order_violations,
        seconds,
        events_per_second: published as f64 / seconds,
        p50_us: ledger.percentile_us(50.0),
        p99_us: ledger.percentile_us(99.0),
        worst_airports: ledger.worst_airports(10),
    })
}

async fn ready(subscription: &Subscription) -> Result<(), Failure> {
    match tokio::time::timeout(PATIENCE, subscription.ready()).await {
        Ok(ready) => ready.trying("the subscription did not become ready"),
        Err(_) => {
            let limit = PATIENCE.as_secs();
            let why = subscription.status().trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
            Err(Failure::Failed(format!("group {} gave no partitions within {limit} s{why}", subscription.group())))
        }
    }
}

/// Publishes all departures in the order of the file, and returns how many the broker has confirmed.
async fn publish(bus: &Bus, run: &Run, flights: &[Flight]) -> Result<u64, Failure> {
    let mut places: HashMap<&str, u64> = HashMap::new();
    let mut published = 0;
    for (number, chunk) in flights.chunks(BATCH).enumerate() {
        let events: Vec<Departed> = chunk
            .iter()
            .enumerate()
            .map(|(index, flight)| {
                let place = places.entry(&flight.origin).or_insert(0);
                let departed = Departed {
                    origin: flight.origin.clone(),
                    destination: flight.destination.clone(),
                    departure: flight.departure.clone(),
                    delay_minutes: flight.delay_minutes,
                    distance_miles: flight.distance_miles,
                    run: run.id.clone(),
                    place: *place,
                    published_us: run.elapsed_us(),
                    trouble: flight::trouble(number * BATCH + index),
                };
                *place += 1;
                departed
            })
            .collect();
        for result in bus.publish_batch(&events).await {
            result.trying("a departure was not published")?;
            published += 1;
        }
        run.view.published.set_position(published);
    }
    Ok(published)
}

/// Waits until every event was handled or dead-lettered.
async fn settled(subscription: &Subscription, run: &Run, expected: u64) -> Result<SubscriptionStatus, Failure> {
    let mut last_progress = (0, Instant::now());
    loop {
        let handled = run.ledger().handled;
        let waiting = subscription.wait_for(|status| {
            run.view.show_troubles(status);
            run.ledger().handled + status.counts.dead_lettered >= expected
        });
        match tokio::time::timeout(Duration::from_secs(1), waiting).await {
            Ok(status) => return status.trying("the subscription ended early"),
            Err(_) if handled > last_progress.0 => last_progress = (handled, Instant::now()),
            Err(_) if last_progress.1.elapsed() > PATIENCE => {
                let status = subscription.status();
                return Err(Failure::Failed(format!(
                    "stuck: {} of {} events handled, {} dead-lettered, and nothing more for {} s{}",
                    thousands(handled),
                    thousands(expected),
                    status.counts.dead_lettered,
                    PATIENCE.as_secs(),
                    status.trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default(),
                )));
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use milena_broker::{Broker, Fault, Rule};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_group_that_does_not_come_about_is_not_waited_for_for_ever() {
        let broker = Broker::builder().build();
        broker.faults().add(Rule::new(Fault::DropBeforeApply).key("stuck").always());
        let bus = Bus::builder().embedded(broker).open().await.unwrap();
        let policy = FailurePolicy::attempts(1).then(Then::Stop);
        let subscription = bus.subscribe(policy, async |_: Departed| {}).group("stuck").await.unwrap();
        let ended = tokio::time::timeout(2 * PATIENCE, ready(&subscription)).await.expect("an end");
        let Err(Failure::Failed(text)) = ended else { panic!("{ended:?}") };
        assert!(text.contains("group stuck gave no partitions within 60 s"), "{text}");
    }
}
