//! Writing dead letters: by a producer of their own, which takes records a little larger than the one for events.
//!
//! A dead letter is its record with headers behind: one that just fitted when it was published would otherwise never fit
//! again, and hold its offset for ever.

use std::sync::OnceLock;

use milena_client::Client;
use milena_client::producer::{Producer, ProducerConfig, Record, SendError};

use super::publish::borrowed;
use crate::policy::DeadLetter;
use crate::subscription::describe;

/// What the headers of a dead letter may add: two texts of 1 KiB at most, names, numbers and times.
const HEADROOM: usize = 8 * 1024;
/// Kafka's default limit on a topic's batches. A record of another writer may be that large.
const BROKER_DEFAULT: usize = 1_048_588;
/// Kafka's error code for a batch that is larger than its topic takes.
const MESSAGE_TOO_LARGE: i16 = 10;

/// The dead-letter producer of a bus, begun with the first dead letter.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    client: Client,
    config: ProducerConfig,
    producer: OnceLock<Producer>,
}

/// Why a dead letter was not written.
enum NotWritten {
    TooLarge(String),
    Otherwise(String),
}

impl DeadLetters {
    /// For a bus whose events are published as `config` says.
    pub(super) fn new(client: Client, config: &ProducerConfig) -> Self {
        let mut config = config.clone();
        config.max_request_size = config.max_request_size.max(BROKER_DEFAULT).saturating_add(HEADROOM);
        let largest = config.max_request_size.max(config.batch_size).checked_next_power_of_two();
        config.buffer_memory = config.buffer_memory.max(largest.unwrap_or(usize::MAX));
        Self { client, config, producer: OnceLock::new() }
    }

    /// The largest dead letter that may be written.
    pub(super) fn max_bytes(&self) -> usize {
        self.config.max_request_size
    }

    /// The producer, if there was a dead letter.
    pub(super) fn producer(&self) -> Option<&Producer> {
        self.producer.get()
    }

    /// Writes a dead letter and waits for its acknowledgement. One that is too large is written without the texts of
    /// its failure.
    pub(crate) async fn write(&self, letter: DeadLetter) -> Result<(), String> {
        match self.try_write(&letter).await {
            Err(NotWritten::TooLarge(_)) => {}
            Err(NotWritten::Otherwise(error)) => return Err(error),
            Ok(()) => return Ok(()),
        }
        self.try_write(&letter.without_texts()).await.map_err(|error| match error {
            NotWritten::TooLarge(error) | NotWritten::Otherwise(error) => error,
        })
    }

    async fn try_write(&self, letter: &DeadLetter) -> Result<(), NotWritten> {
        let producer = match self.producer.get() {
            Some(producer) => producer,
            None => {
                let builder = Producer::builder(&self.client).config(self.config.clone());
                let built = builder.build().map_err(|error| NotWritten::Otherwise(describe(&error)))?;
                // Of two that are built at once, one is dropped unused.
                self.producer.get_or_init(|| built)
            }
        };
        let headers = borrowed(&letter.headers);
        let mut record = Record::to(&letter.topic).headers(&headers);
        record.key = letter.key.as_deref();
        record.value = letter.value.as_deref();
        let delivery = producer.send(record).await.map_err(|error| match error {
            SendError::RecordTooLarge { .. } => NotWritten::TooLarge(describe(&error)),
            _ => NotWritten::Otherwise(describe(&error)),
        })?;
        delivery.await.map(drop).map_err(|error| match error.error_code() {
            Some(MESSAGE_TOO_LARGE) => NotWritten::TooLarge(describe(&error)),
            _ => NotWritten::Otherwise(describe(&error)),
        })
    }
}
