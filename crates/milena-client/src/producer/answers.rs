//! What a broker's answer to a wave means for each of its batches. Runs in the connection's own task.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use milena_core::producer::partition_queue::{Answer, Leader, RecordRefusal};
use milena_net::{BrokerAddress, Connection, ReplyFrame, RequestError};
use milena_protocol::messages::ProduceResponse;
use milena_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use milena_protocol::{Decode as _, StrBytes};

use super::config::Acks;
use super::shared::{Shared, lock};
use super::wave::Sent;

/// From this version on keeping the throttle is left to the client (KIP-219).
const FIRST_WITH_THROTTLE: i16 = 6;
/// From this version on the response names topics by id.
const FIRST_WITH_TOPIC_IDS: i16 = 13;

impl Shared {
    pub(super) fn answered(
        self: &Arc<Self>,
        node: i32,
        connection: &Connection,
        sent: &[Sent],
        reply: Result<ReplyFrame, RequestError>,
    ) {
        match reply {
            Ok(_) if self.config.acks == Acks::None => {
                for sent in sent {
                    self.settle(sent, Answer::Acknowledged { base_offset: None, log_append_time: None }, None);
                }
            }
            Ok(reply) => match ProduceResponse::decode_exact(reply.api_version, reply.body) {
                Ok(response) => {
                    // Before any partition is pumped again. Older versions are held back by the broker (KIP-219).
                    if reply.api_version >= FIRST_WITH_THROTTLE && response.throttle_time_ms > 0 {
                        connection.throttle(Duration::from_millis(response.throttle_time_ms.unsigned_abs().into()));
                    }
                    self.take_response(reply.api_version, sent, &response);
                }
                Err(error) => {
                    connection.close_undecodable(error);
                    self.lose(sent, true);
                }
            },
            Err(error) => {
                tracing::debug!(node, %error, batches = sent.len(), "produce request has no answer");
                self.lose(sent, error.written());
            }
        }
        let mut nodes: Vec<_> = sent
            .iter()
            .filter_map(|sent| {
                let mut state = sent.partition.lock()?;
                self.list(&sent.partition, &mut state)
            })
            .chain([node])
            .collect();
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            self.pump(node);
        }
        // What was given up and still in flight may have been the last that the driver waited for.
        if self.ending.load(SeqCst) {
            self.wake.notify_one();
        }
    }

    fn lose(self: &Arc<Self>, sent: &[Sent], written: bool) {
        for sent in sent {
            self.settle(sent, if written { Answer::Lost } else { Answer::NotSent }, None);
        }
    }

    fn take_response(self: &Arc<Self>, version: i16, sent: &[Sent], response: &ProduceResponse) {
        // Where new leaders listen, before anyone tries to reach them (KIP-951).
        for endpoint in &response.node_endpoints {
            if let Ok(address) = BrokerAddress::new(&endpoint.host, endpoint.port) {
                self.client.pool.learn_broker(endpoint.node_id.0, address);
            }
        }
        for sent in sent {
            let of_topic = |topic: &&TopicProduceResponse| match version {
                FIRST_WITH_TOPIC_IDS.. => topic.topic_id == sent.topic_id,
                _ => *topic.name == **sent.partition.topic(),
            };
            let found = response
                .responses
                .iter()
                .filter(of_topic)
                .find_map(|topic| find(&topic.partition_responses, sent.partition.index));
            match found {
                Some(partition) => {
                    let hint = &partition.current_leader;
                    let hint = (hint.leader_id.0 >= 0 && hint.leader_epoch >= 0)
                        .then_some(Leader { node: hint.leader_id.0, epoch: hint.leader_epoch });
                    self.settle(sent, read(partition), hint);
                }
                // Left out: whether it was written is as open as without any answer.
                None => self.settle(sent, Answer::Lost, None),
            }
        }
    }

    /// Tells the partition what became of its batch.
    pub(super) fn settle(self: &Arc<Self>, sent: &Sent, answer: Answer, hint: Option<Leader>) {
        if !matches!(answer, Answer::Acknowledged { .. }) {
            self.counters.retries.fetch_add(1, Relaxed);
            tracing::debug!(partition = ?sent.partition, ?answer, "batch not acknowledged");
        }
        let now = self.client.clock.now();
        // Never idle: the batch is in its queue.
        let Some(mut state) = sent.partition.lock() else { return };
        {
            let mut rng = lock(&self.rng);
            state.queue.answer(now, &sent.partition.settings().queue, sent.ticket, answer, &mut rng);
        }
        let done = state.queue.take_done();
        let bump = state.queue.poll_bump();
        let refresh = state.queue.poll_metadata();
        if let Some(hint) = hint {
            self.take_hint(&sent.partition, &mut state, hint, sent.topic_id);
        }
        // What comes next has another reason to wait, or none.
        state.must_linger &= !state.queue.is_empty();
        sent.partition.publish(&state);
        drop(state);
        if refresh {
            self.client.metadata.request_refresh();
        }
        if let Some(used) = bump {
            self.bump(used);
        }
        self.finish(done);
    }
}

/// The answer for a partition: nearly always the only one, or where its index says.
fn find(partitions: &[PartitionProduceResponse], index: i32) -> Option<&PartitionProduceResponse> {
    let likely = usize::try_from(index).ok().and_then(|place| partitions.get(place));
    likely.filter(|partition| partition.index == index).or_else(|| partitions.iter().find(|other| other.index == index))
}

fn read(partition: &PartitionProduceResponse) -> Answer {
    let text = |text: &Option<StrBytes>| text.as_ref().map(|text| Arc::from(text.as_str()));
    if partition.error_code.is_ok() {
        return Answer::Acknowledged {
            base_offset: (partition.base_offset >= 0).then_some(partition.base_offset),
            log_append_time: (partition.log_append_time_ms >= 0).then_some(partition.log_append_time_ms),
        };
    }
    let refusals = partition.record_errors.iter().filter_map(|record| {
        let index = u32::try_from(record.batch_index).ok()?;
        Some(RecordRefusal { index, message: text(&record.batch_index_error_message) })
    });
    Answer::Refused {
        code: partition.error_code,
        message: text(&partition.error_message),
        records: refusals.collect(),
        appended: partition.base_offset >= 0,
    }
}
