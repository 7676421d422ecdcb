//! InitProducerId (22), versions 0–5: the identity of an idempotent producer.
//!
//! As Kafka without a transactional id: always a new producer id with epoch 0, whatever the client claims. With one, the
//! coordinator grants the same id with a higher epoch, which fences the one before; there are no transactions to recover.

use milena_protocol::{
    ErrorCode, ProducerId, VersionRange,
    messages::{InitProducerIdRequest, InitProducerIdResponse},
};

use super::{NoReply, RequestContext, Subject};
use crate::{cluster::CoordinatorType, fault::Touched};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(0, 5);

/// From here on a stale claim is told apart as PRODUCER_FENCED.
const PRODUCER_FENCED: i16 = 4;

impl Subject for InitProducerIdRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        Touched { partitions: Vec::new(), key: self.transactional_id.as_deref().map(str::to_owned) }
    }
}

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    request: InitProducerIdRequest,
) -> Result<InitProducerIdResponse, NoReply> {
    let granted = match cx.effects.error() {
        Some(code) => Err(code),
        None => grant(cx, &request),
    };
    Ok(match granted {
        Ok((producer_id, producer_epoch)) => {
            InitProducerIdResponse { producer_id: ProducerId(producer_id), producer_epoch, ..Default::default() }
        }
        Err(error_code) => InitProducerIdResponse { error_code, producer_epoch: -1, ..Default::default() },
    })
}

fn grant(cx: &RequestContext<'_>, request: &InitProducerIdRequest) -> Result<(i64, i16), ErrorCode> {
    let cluster = &cx.core.cluster;
    let claimed = (request.producer_id.0, request.producer_epoch);
    let claims = match claimed {
        (-1, -1) => None,
        (id, epoch) if id >= 0 && epoch >= 0 => Some(claimed),
        _ => return Err(ErrorCode::INVALID_REQUEST),
    };
    let Some(transactional_id) = request.transactional_id.as_deref() else {
        return Ok((cluster.new_producer_id(), 0));
    };
    if transactional_id.is_empty() {
        return Err(ErrorCode::INVALID_REQUEST);
    }
    let longest = cluster.config.int("transaction.max.timeout.ms");
    if !(1..=longest).contains(&request.transaction_timeout_ms) {
        return Err(ErrorCode::INVALID_TRANSACTION_TIMEOUT);
    }
    cluster.check_coordinator(CoordinatorType::Transaction, transactional_id, cx.node)?;
    cluster.transactional_producer(transactional_id, claims).map_err(|code| {
        let known_to_client = cx.version >= PRODUCER_FENCED;
        if known_to_client { code } else { ErrorCode::INVALID_PRODUCER_EPOCH }
    })
}
