//! The consumer: partitions by hand or by a group, one stream of events, commits in order.
//!
//! One driver task owns membership and commits; one fetcher per broker reads ahead within the budget of the client;
//! decoding runs on the task that calls [`Consumer::next`], that of large batches on a thread of its own, and the position
//! moves in `next`. See `driver`, `fetcher` and `hand_over`.

mod builder;
mod config;
mod driver;
mod error;
mod event;
mod fetcher;
mod hand_over;
mod listing;
mod metrics;
mod offsets;
mod outages;
mod pauses;
mod prefetch;
mod processed;
mod record_set;
mod shared;
#[cfg(test)]
mod test_rig;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use milena_core::consumer::positions::{EARLIEST, LATEST};
pub use milena_core::consumer::positions::{EpochOffset, LogTruncation, NoOffset, OffsetReset, Start};
pub use milena_core::consumer::{AssignmentEpoch, TopicPartition};
pub use milena_core::group::assignor::Assignor;
pub use milena_core::group::classic::GroupError;
pub use milena_core::group::commit_lane::OffsetRefused;
use milena_core::group::commit_lane::OffsetToCommit;
use milena_protocol::ErrorCode;
use tokio::sync::{mpsc, oneshot};

pub use self::builder::ConsumerBuilder;
pub use self::config::{ConsumerConfig, Isolation};
use self::driver::Command;
pub use self::error::{CommitError, ConsumeError};
pub use self::event::{Assignment, ConsumerEvent, RevocationGuard};
use self::listing::Listing;
pub use self::listing::OffsetListing;
pub use self::metrics::ConsumerMetrics;
use self::offsets::Listed;
pub use self::offsets::OffsetAndMetadata;
pub use self::outages::{Awaited, Outage};
pub(crate) use self::prefetch::Prefetch;
pub use self::record_set::{ConsumerRecord, OwnedRecord, RecordSet, RecordSetIter};
use self::shared::{Polling, Shared, Subscription};
use crate::client::Client;
use crate::error::RequestError;

/// Reads records from partitions that are assigned by hand or by a group. Clones share it; each event goes to one of them.
///
/// When the last clone is dropped the consumer leaves its group in the background, within five seconds.
/// [`Self::close`] does the same and says how it went.
#[derive(Clone)]
pub struct Consumer {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    client: Client,
}

impl Consumer {
    /// Starts to describe a consumer.
    pub fn builder(client: &Client) -> ConsumerBuilder {
        ConsumerBuilder::new(client.clone())
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// The settings it was built with.
    pub fn config(&self) -> &ConsumerConfig {
        &self.shared().config
    }

    /// The client it was built on.
    pub fn client(&self) -> &Client {
        &self.handle.client
    }

    /// Reads exactly these partitions, in place of those assigned by hand before. One that is held and stays keeps its
    /// position unless `start` says otherwise; [`Start::Committed`] keeps it.
    ///
    /// # Errors
    /// [`ConsumeError::Mixed`] when it is subscribed; [`ConsumeError::Closed`].
    pub fn assign<T: AsRef<str>>(
        &self,
        partitions: impl IntoIterator<Item = (T, i32, Start)>,
    ) -> Result<(), ConsumeError> {
        let wanted: BTreeMap<TopicPartition, Start> = partitions
            .into_iter()
            .map(|(topic, partition, start)| (TopicPartition::new(topic.as_ref(), partition), start))
            .collect();
        let mut state = self.shared().state();
        if state.closed {
            return Err(ConsumeError::Closed);
        }
        if !matches!(state.subscription, Subscription::None | Subscription::Assigned) {
            return Err(ConsumeError::Mixed);
        }
        let held: Vec<TopicPartition> = state.positions.iter().map(|(partition, _)| partition.clone()).collect();
        for partition in held.iter().filter(|partition| !wanted.contains_key(*partition)) {
            state.give_up(partition);
        }
        let is_held = |partition: &TopicPartition| state.positions.get(partition).is_some();
        let fresh: Vec<(TopicPartition, Start)> = wanted
            .into_iter()
            .filter(|(partition, start)| !(*start == Start::Committed && is_held(partition)))
            .collect();
        state.assign(fresh);
        state.subscription = Subscription::Assigned;
        state.subscribed += 1;
        drop(state);
        self.shared().wake_all();
        Ok(())
    }

    /// Joins the group for these topics, in place of those subscribed to before. A topic need not exist yet.
    ///
    /// # Errors
    /// [`ConsumeError::NoGroup`]; [`ConsumeError::Mixed`] when partitions were assigned by hand;
    /// [`ConsumeError::Closed`].
    pub fn subscribe<T: AsRef<str>>(&self, topics: impl IntoIterator<Item = T>) -> Result<(), ConsumeError> {
        let topics = topics.into_iter().map(|topic| Arc::from(topic.as_ref())).collect();
        self.set_subscription(Subscription::Topics(topics))
    }

    /// Joins the group for all topics that `wanted` picks by name, now and later; internal topics are never asked about.
    /// A function rather than a pattern: any regex crate is one closure away, and none is forced upon the others.
    ///
    /// # Errors
    /// As [`Self::subscribe`].
    pub fn subscribe_matching(
        &self,
        wanted: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Result<(), ConsumeError> {
        self.set_subscription(Subscription::Matching(Arc::new(wanted)))
    }

    fn set_subscription(&self, subscription: Subscription) -> Result<(), ConsumeError> {
        if self.config().group.is_none() {
            return Err(ConsumeError::NoGroup);
        }
        let mut state = self.shared().state();
        if state.closed {
            return Err(ConsumeError::Closed);
        }
        if matches!(state.subscription, Subscription::Assigned) {
            return Err(ConsumeError::Mixed);
        }
        state.subscription = subscription;
        state.subscribed += 1;
        drop(state);
        self.shared().wake_all();
        Ok(())
    }

    /// The next event. Records of each partition come in order, a batch at a time, the partitions in turn; positions
    /// move as they are returned. Waiting here counts as polling, however long it takes.
    ///
    /// Several tasks may wait at once: one partition is read by one of them at a time, and its next batch goes out only
    /// after the one before, to whoever asks next. What they do with two batches of a partition is theirs to order.
    ///
    /// # Errors
    /// [`ConsumeError`]; but for [`ConsumeError::Closed`] and a group that has ended, call it again.
    ///
    /// # Cancel safety
    /// Nothing is lost: an event is taken only when it is returned.
    pub async fn next(&self) -> Result<ConsumerEvent, ConsumeError> {
        let shared = self.shared();
        // A loop that never waits must let other tasks run.
        tokio::task::consume_budget().await;
        let _polling = Polling::begin(shared);
        loop {
            let changed = shared.app.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (event, closed) = {
                let mut state = shared.state();
                (state.events.pop_front(), state.closed)
            };
            if let Some(event) = event {
                return event;
            }
            if closed {
                return Err(ConsumeError::Closed);
            }
            if let Some(records) = shared.hand_over() {
                return records.map(ConsumerEvent::Records);
            }
            changed.await;
        }
    }

    /// Commits, after all commits asked for before; resolves when the coordinator has answered. Offsets name the epoch of
    /// the record set they stem from ([`RecordSet::epoch`]); those of an assignment that ended are refused.
    ///
    /// # Errors
    /// [`CommitError`] names the offsets that were not committed, and why.
    ///
    /// # Cancel safety
    /// The commit goes on, in its place.
    pub async fn commit(
        &self,
        offsets: impl IntoIterator<Item = (TopicPartition, OffsetAndMetadata, AssignmentEpoch)>,
    ) -> Result<(), CommitError> {
        let offsets: Vec<OffsetToCommit> = offsets
            .into_iter()
            .map(|(partition, offset, epoch)| OffsetToCommit {
                partition,
                offset: offset.offset,
                leader_epoch: offset.leader_epoch.unwrap_or(-1),
                metadata: (!offset.metadata.is_empty()).then(|| offset.metadata.into()),
                epoch,
            })
            .collect();
        if offsets.is_empty() {
            return Ok(());
        }
        let refuse_all = |partitions: Vec<TopicPartition>| CommitError {
            refused: partitions.into_iter().map(|partition| (partition, OffsetRefused::NoGroup)).collect(),
        };
        let partitions: Vec<TopicPartition> = offsets.iter().map(|offset| offset.partition.clone()).collect();
        if self.config().group.is_none() {
            return Err(refuse_all(partitions));
        }
        let (done, result) = oneshot::channel();
        if self.handle.commands.send(Command::Commit(offsets, done)).await.is_err() {
            return Err(refuse_all(partitions));
        }
        let Ok(result) = result.await else { return Err(refuse_all(partitions)) };
        let refused: Vec<_> =
            result.into_iter().filter_map(|(partition, result)| Some((partition, result.err()?))).collect();
        if refused.is_empty() { Ok(()) } else { Err(CommitError { refused }) }
    }

    /// Continues a partition elsewhere. What was fetched ahead of it is dropped; other partitions lose nothing.
    ///
    /// # Errors
    /// [`ConsumeError::NotAssigned`].
    pub fn seek(&self, partition: &TopicPartition, to: Start) -> Result<(), ConsumeError> {
        self.change(partition, |state| state.seek(partition, to))
    }

    /// Stops handing over records of a partition; what was fetched ahead of it is kept.
    ///
    /// # Errors
    /// [`ConsumeError::NotAssigned`].
    pub fn pause(&self, partition: &TopicPartition) -> Result<(), ConsumeError> {
        self.change(partition, |state| state.set_paused(partition, true))
    }

    /// Takes a [`Self::pause`] back.
    ///
    /// # Errors
    /// [`ConsumeError::NotAssigned`].
    pub fn resume(&self, partition: &TopicPartition) -> Result<(), ConsumeError> {
        self.change(partition, |state| state.set_paused(partition, false))
    }

    fn change(
        &self,
        partition: &TopicPartition,
        change: impl FnOnce(&mut shared::State) -> bool,
    ) -> Result<(), ConsumeError> {
        if !change(&mut self.shared().state()) {
            return Err(ConsumeError::NotAssigned(partition.clone()));
        }
        self.shared().wake_all();
        Ok(())
    }

    /// Partitions held now, with the epoch of each.
    pub fn assignment(&self) -> Vec<(TopicPartition, AssignmentEpoch)> {
        self.shared().state().positions.iter().map(|(partition, held)| (partition.clone(), held.epoch)).collect()
    }

    /// Offset of the next record to be handed over; `None` while it is not known, or when the partition is not held.
    pub fn position(&self, partition: &TopicPartition) -> Option<i64> {
        self.shared().state().positions.get(partition)?.position()
    }

    /// Waits until the position of each of these partitions is known, and returns them in the order given. A partition
    /// without a committed offset, under `auto.offset.reset=none`, has one when it is sought. Does not count as polling.
    ///
    /// # Errors
    /// [`ConsumeError::NotAssigned`] names a partition that is not held, or is not any more; [`ConsumeError::Closed`].
    ///
    /// # Cancel safety
    /// Nothing is lost: this only looks.
    pub async fn positioned(&self, partitions: &[TopicPartition]) -> Result<Vec<i64>, ConsumeError> {
        let shared = self.shared();
        loop {
            let changed = shared.app.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(positions) = shared.state().positions_of(partitions)? {
                return Ok(positions);
            }
            changed.await;
        }
    }

    /// Records between position and end, as of the last response; `None` before the first.
    pub fn lag(&self, partition: &TopicPartition) -> Option<i64> {
        let read_committed = self.config().isolation == Isolation::ReadCommitted;
        self.shared().state().positions.get(partition)?.lag(read_committed)
    }

    /// What was counted so far.
    pub fn metrics(&self) -> ConsumerMetrics {
        let budget = &self.handle.client.inner().prefetch.budget;
        ConsumerMetrics {
            prefetch_used: budget.used() as u64,
            prefetch_limit: budget.capacity() as u64,
            ..self.shared().counters.read()
        }
    }

    /// What the group has committed; partitions without a commit are left out.
    ///
    /// # Errors
    /// [`ConsumeError::NoGroup`], or what kept the coordinator from answering within `default.api.timeout.ms`.
    pub async fn committed(
        &self,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, OffsetAndMetadata>, ConsumeError> {
        let group = self.config().group.clone().ok_or(ConsumeError::NoGroup)?;
        let partitions: Vec<TopicPartition> = partitions.into_iter().collect();
        Ok(offsets::committed_until_known(self.handle.client.inner(), &group, partitions).await?)
    }

    /// What the group has committed for each partition, `None` where that is nothing, or why that is not known: what
    /// is wrong with one holds up no other, and is not tried again here.
    ///
    /// # Errors
    /// [`ConsumeError::NoGroup`], or what kept the coordinator from answering within `default.api.timeout.ms`.
    pub async fn committed_each(
        &self,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<Vec<(TopicPartition, Result<Option<OffsetAndMetadata>, RequestError>)>, ConsumeError> {
        let group = self.config().group.clone().ok_or(ConsumeError::NoGroup)?;
        let partitions: Vec<TopicPartition> = partitions.into_iter().collect();
        let answers = offsets::committed_until_answered(self.handle.client.inner(), &group, partitions).await?;
        let name = |(partition, answer): (TopicPartition, Result<_, ErrorCode>)| {
            let subject = format!("the committed offset of {partition}");
            (partition, answer.map_err(|error| RequestError::broker(subject, error, None)))
        };
        Ok(answers.into_iter().map(name).collect())
    }

    /// For each partition the first offset whose record is of that time (milliseconds since 1970) or later; those with
    /// no such record are left out.
    ///
    /// # Errors
    /// [`RequestError`] within `default.api.timeout.ms`.
    pub async fn offsets_for_times(
        &self,
        times: impl IntoIterator<Item = (TopicPartition, i64)>,
    ) -> Result<BTreeMap<TopicPartition, (i64, i64)>, RequestError> {
        let listed = self.list(times.into_iter().map(|(partition, time)| (partition, time.max(0))).collect()).await?;
        let found = listed.into_iter().filter(|(_, listed)| listed.offset >= 0);
        Ok(found.map(|(partition, listed)| (partition, (listed.offset, listed.timestamp))).collect())
    }

    /// The oldest offset of each partition.
    ///
    /// # Errors
    /// [`RequestError`] within `default.api.timeout.ms`.
    pub async fn beginning_offsets(
        &self,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, i64>, RequestError> {
        let listed = self.list(partitions.into_iter().map(|partition| (partition, EARLIEST)).collect()).await?;
        Ok(listed.into_iter().map(|(partition, listed)| (partition, listed.offset)).collect())
    }

    /// The offset behind the last record of each partition that this consumer may see.
    ///
    /// # Errors
    /// [`RequestError`] within `default.api.timeout.ms`.
    pub async fn end_offsets(
        &self,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, i64>, RequestError> {
        let listed = self.list(partitions.into_iter().map(|partition| (partition, LATEST)).collect()).await?;
        Ok(listed.into_iter().map(|(partition, listed)| (partition, listed.offset)).collect())
    }

    /// Looks for the end of each log that is named with `true`, and for the beginning of the others, and tells of each as
    /// soon as its leader has: one that is slow or silent, or a partition without a leader, holds up no other. All
    /// leaders are asked at once, with one request each.
    pub fn list_offsets(&self, partitions: impl IntoIterator<Item = (TopicPartition, bool)>) -> OffsetListing {
        let timestamp = |is_end| if is_end { LATEST } else { EARLIEST };
        let targets = partitions.into_iter().map(|(partition, is_end)| (partition, timestamp(is_end)));
        OffsetListing(self.listing(targets.collect()))
    }

    fn listing(&self, targets: Vec<(TopicPartition, i64)>) -> Listing {
        Listing::new(Arc::clone(self.handle.client.inner()), self.config().isolation, targets)
    }

    async fn list(
        &self,
        targets: Vec<(TopicPartition, i64)>,
    ) -> Result<BTreeMap<TopicPartition, Listed>, RequestError> {
        self.listing(targets).all().await
    }

    /// Stops, sends the commits that were asked for, and leaves the group (a static member just stops, so that its
    /// partitions wait for its return). Records not yet handed over are dropped, and so are events.
    ///
    /// # Errors
    /// [`ConsumeError::CloseTimedOut`] when the deadline came first; it is closed all the same.
    ///
    /// # Cancel safety
    /// Closing goes on.
    pub async fn close(&self, deadline: Duration) -> Result<(), ConsumeError> {
        // A longer one is as good as for ever, and could overflow.
        let at = self.shared().client.clock.now() + deadline.min(Duration::from_secs(24 * 3600));
        let (done, closed) = oneshot::channel();
        if self.handle.commands.send(Command::Close(at, done)).await.is_err() {
            return Ok(());
        }
        match closed.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(ConsumeError::CloseTimedOut),
            // The client ended first, and the driver with it.
            Err(_) => Ok(()),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.state().abandoned = true;
        self.shared.driver.notify_one();
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("group", &self.config().group).finish_non_exhaustive()
    }
}
