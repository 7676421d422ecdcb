//! Which broker coordinates a group or a transactional id. Lookups are single-flight and run in the client's task set:
//! a caller that gives up neither stops one nor makes another believe that the coordinator is gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use milena_net::{BrokerAddress, Purpose, watch};
use milena_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use milena_protocol::{ApiKey, ErrorCode};

use super::ClientInner;
use crate::error::RequestError;

/// What is coordinated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CoordinatorKind {
    /// A consumer group.
    Group,
    /// A transactional id.
    Transaction,
}

type Key = (CoordinatorKind, Arc<str>);
type Outcome = Option<Result<i32, RequestError>>;

#[derive(Debug, Default)]
pub(crate) struct Coordinators {
    entries: Mutex<BTreeMap<Key, Entry>>,
}

#[derive(Debug)]
enum Entry {
    Known(i32),
    Looking(watch::Receiver<Outcome>),
}

impl Coordinators {
    /// The coordinator as far as it is known.
    pub(crate) fn known(&self, kind: CoordinatorKind, key: &str) -> Option<i32> {
        match self.entries().get(&(kind, key.into())) {
            Some(Entry::Known(node)) => Some(*node),
            _ => None,
        }
    }

    /// `node` said that it is not the coordinator, or cannot be reached: forget it, unless another is known by now.
    pub(crate) fn invalidate(&self, kind: CoordinatorKind, key: &str, node: i32) {
        let mut entries = self.entries();
        let key = (kind, key.into());
        if matches!(entries.get(&key), Some(Entry::Known(known)) if *known == node) {
            entries.remove(&key);
        }
    }

    /// The coordinator, looked up if it is not known: one attempt, without retries.
    pub(crate) async fn find(
        &self,
        client: &Arc<ClientInner>,
        kind: CoordinatorKind,
        key: &str,
    ) -> Result<i32, RequestError> {
        let mut looking = {
            let mut entries = self.entries();
            match entries.get(&(kind, key.into())) {
                Some(Entry::Known(node)) => return Ok(*node),
                Some(Entry::Looking(outcome)) => outcome.clone(),
                None => {
                    let (report, outcome) = watch::channel(None);
                    entries.insert((kind, key.into()), Entry::Looking(outcome.clone()));
                    drop(entries);
                    self.start(client, (kind, key.into()), report)?;
                    outcome
                }
            }
        };
        match looking.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.expect("waited until it is there"),
            // The lookup was aborted with the client's tasks.
            Err(_) => Err(RequestError::Closed),
        }
    }

    fn start(&self, client: &Arc<ClientInner>, key: Key, report: watch::Sender<Outcome>) -> Result<(), RequestError> {
        let task = {
            let (client, key) = (Arc::clone(client), key.clone());
            async move {
                let outcome = look_up(&client, key.0, &key.1).await;
                let mut entries = client.coordinators.entries();
                match &outcome {
                    Ok(node) => drop(entries.insert(key, Entry::Known(*node))),
                    Err(_) => drop(entries.remove(&key)),
                }
                drop(entries);
                report.send(Some(outcome));
            }
        };
        client.tasks.spawn("find coordinator", task).inspect_err(|_| drop(self.entries().remove(&key)))?;
        Ok(())
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        self.entries.lock().expect("no code that holds this lock can panic")
    }
}

async fn look_up(client: &Arc<ClientInner>, kind: CoordinatorKind, key: &str) -> Result<i32, RequestError> {
    let broker = client.metadata.candidates().into_iter().next().ok_or(RequestError::NoBroker)?;
    let connection = client.pool.get(&broker, Purpose::General).await?;
    let version = connection.versions().highest(ApiKey::FindCoordinator);
    let key_type = match kind {
        CoordinatorKind::Group => 0,
        CoordinatorKind::Transaction => 1,
    };
    let mut request = FindCoordinatorRequest { key_type, ..FindCoordinatorRequest::default() };
    // Version 4 asks for several at once (KIP-699).
    if version.is_some_and(|version| version >= 4) {
        request.coordinator_keys = vec![key.into()];
    } else {
        request.key = key.into();
    }
    let response = connection.request(&request, version, client.config.request_timeout).await?;
    let found = read(key, response)?;
    let address = BrokerAddress::new(&found.host, found.port).map_err(|_| RequestError::NoBroker)?;
    // It may be newer than our metadata.
    client.pool.learn_broker(found.node, address);
    if client.metadata.snapshot().broker(found.node).is_none() {
        client.metadata.request_refresh();
    }
    Ok(found.node)
}

struct Found {
    node: i32,
    host: String,
    port: i32,
}

fn read(key: &str, response: FindCoordinatorResponse) -> Result<Found, RequestError> {
    let refused = |code: ErrorCode, detail: Option<&str>| {
        code.ok().map_err(|code| RequestError::broker(format!("coordinator of `{key}`"), code, detail))
    };
    refused(response.error_code, response.error_message.as_deref())?;
    match response.coordinators.into_iter().find(|coordinator| &*coordinator.key == key) {
        Some(found) => {
            refused(found.error_code, found.error_message.as_deref())?;
            Ok(Found { node: found.node_id.0, host: found.host.to_string(), port: found.port })
        }
        None if !response.host.is_empty() => {
            Ok(Found { node: response.node_id.0, host: response.host.to_string(), port: response.port })
        }
        None => Err(RequestError::broker(
            format!("coordinator of `{key}`"),
            ErrorCode::COORDINATOR_NOT_AVAILABLE,
            Some("the answer does not name one"),
        )),
    }
}
