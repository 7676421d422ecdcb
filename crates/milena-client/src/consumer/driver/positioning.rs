//! Where partitions start, and whether the log that was read is still there: questions of the positions put to the
//! coordinator and to leaders, and their answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milena_core::consumer::positions::{EpochOffset, Question, Start, Unresolved};
use milena_protocol::ErrorCode;

use super::{Answer, Driver};
use crate::consumer::config::Isolation;
use crate::consumer::error::ConsumeError;
use crate::consumer::offsets::{self, Answers, Listed, OffsetAndMetadata};
use crate::consumer::outages::Awaited;
use crate::consumer::pauses::Pauses;
use crate::consumer::wire::is_about_coordinator;
use crate::error::RequestError;

/// After an error about one partition that a retry won't mend soon.
const REFUSED: Duration = Duration::from_secs(1);

impl Driver {
    pub(super) fn ask_for_offsets(&mut self, now: Instant) {
        let questions = {
            let mut state = self.shared.state();
            if state.closed {
                return;
            }
            state.positions.questions(now)
        };
        if questions.is_empty() {
            return;
        }
        let (committed, by_time): (Vec<_>, Vec<_>) =
            questions.into_iter().partition(|question| question.unresolved == Unresolved::Committed);
        if !committed.is_empty() {
            if self.membership.is_none() {
                let answers = committed.iter().map(|question| (question.partition.clone(), Ok(None))).collect();
                self.take_committed(now, committed, Ok(answers));
                return self.ask_for_offsets(now);
            }
            let shared = Arc::clone(&self.shared);
            self.spawn("committed offsets", async move {
                let group = shared.config.group.as_deref().unwrap_or_default();
                let partitions = committed.iter().map(|question| question.partition.clone()).collect();
                let stable = shared.config.isolation == Isolation::ReadCommitted;
                let (begun, coordinator) = (shared.client.clock.now(), shared.coordinator());
                let answers = match offsets::committed(&shared.client, group, partitions, stable).await {
                    Ok(answers) => {
                        match answers.as_ref().err().filter(|code| is_about_coordinator(**code)) {
                            Some(code) => {
                                let error = RequestError::broker("committed offsets", *code, None);
                                shared.failed(coordinator, begun, &error);
                            }
                            None => shared.answered(&coordinator),
                        }
                        answers
                    }
                    Err(error) => {
                        tracing::debug!(%error, "committed offsets had no answer");
                        shared.failed(coordinator, begun, &error);
                        Err(ErrorCode::COORDINATOR_NOT_AVAILABLE)
                    }
                };
                Answer::Committed(committed, answers)
            });
        }
        let (in_doubt, by_time): (Vec<_>, Vec<_>) =
            by_time.into_iter().partition(|question| matches!(question.unresolved, Unresolved::EpochEnd { .. }));
        for (node, questions) in self.by_leader(in_doubt) {
            let shared = Arc::clone(&self.shared);
            self.spawn("ends of epochs", async move {
                let targets = questions.iter().filter_map(|question| match question.unresolved {
                    Unresolved::EpochEnd { epoch, leader_epoch } => {
                        Some((question.partition.clone(), (leader_epoch, epoch)))
                    }
                    Unresolved::Committed | Unresolved::Timestamp(_) => None,
                });
                let begun = shared.client.clock.now();
                let answers = offsets::epoch_ends(&shared.client, node, targets.collect()).await;
                match &answers {
                    Ok(_) => shared.answered(&Awaited::Broker(node)),
                    Err(error) => shared.failed(Awaited::Broker(node), begun, error),
                }
                Answer::EpochEnds(questions, answers)
            });
        }
        for (node, questions) in self.by_leader(by_time) {
            let shared = Arc::clone(&self.shared);
            self.spawn("offsets by time", async move {
                let targets = questions.iter().filter_map(|question| match question.unresolved {
                    Unresolved::Timestamp(timestamp) => Some((question.partition.clone(), timestamp)),
                    Unresolved::Committed | Unresolved::EpochEnd { .. } => None,
                });
                let begun = shared.client.clock.now();
                let answers = offsets::list(&shared.client, node, shared.config.isolation, targets.collect()).await;
                match &answers {
                    Ok(_) => shared.answered(&Awaited::Broker(node)),
                    Err(error) => shared.failed(Awaited::Broker(node), begun, error),
                }
                Answer::Listed(questions, answers)
            });
        }
    }

    /// Questions for leaders are put only where there is one.
    fn by_leader(&self, questions: Vec<Question>) -> BTreeMap<i32, Vec<Question>> {
        let state = self.shared.state();
        let mut by_leader: BTreeMap<i32, Vec<Question>> = BTreeMap::new();
        for question in questions {
            let position = state.positions.get(&question.partition);
            let leader = position.and_then(|position| position.leader).map_or(-1, |(leader, _)| leader);
            by_leader.entry(leader).or_default().push(question);
        }
        by_leader
    }

    pub(super) fn take_committed(
        &self,
        now: Instant,
        questions: Vec<Question>,
        answers: Result<Answers<Option<OffsetAndMetadata>>, ErrorCode>,
    ) {
        let pauses = Pauses::new(&self.shared.client);
        let again = |failures| now + pauses.after(failures);
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                if matches!(error, ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_NOT_AVAILABLE) {
                    self.forget_coordinator();
                }
                questions.iter().map(|question| (question.partition.clone(), Err(error))).collect()
            }
        };
        let wall = self.shared.client.clock.wall_millis();
        let answers: BTreeMap<_, _> = answers.into_iter().collect();
        let mut errors = Vec::new();
        let mut state = self.shared.state();
        for question in questions {
            match answers.get(&question.partition) {
                Some(Ok(committed)) => {
                    let offset = committed.as_ref().map(|committed| EpochOffset {
                        offset: committed.offset,
                        epoch: committed.leader_epoch.unwrap_or(-1),
                    });
                    let taken = state.positions.handle_committed(wall, &question.partition, question.version, offset);
                    errors.extend(taken.err().map(ConsumeError::from));
                }
                Some(Err(error)) if !error.is_retriable() => {
                    state.positions.ask_again(&question, |_| now + REFUSED);
                    let source = RequestError::broker("the committed offset", *error, None);
                    errors.push(ConsumeError::Partition { partition: question.partition, source });
                }
                _ => state.positions.ask_again(&question, again),
            }
        }
        drop(state);
        errors.into_iter().for_each(|error| self.shared.push(Err(error)));
        self.shared.wake_all();
    }

    pub(super) fn take_listed(
        &self,
        now: Instant,
        questions: Vec<Question>,
        answers: Result<Answers<Listed>, RequestError>,
    ) {
        let pauses = Pauses::new(&self.shared.client);
        let again = |failures| now + pauses.after(failures);
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                tracing::debug!(%error, "offsets by time had no answer");
                Vec::new()
            }
        };
        let answers: BTreeMap<_, _> = answers.into_iter().collect();
        let mut errors = Vec::new();
        let mut stale = false;
        let mut state = self.shared.state();
        for question in questions {
            match answers.get(&question.partition) {
                // Nothing is that young: what comes next is. The ends of a log have an offset, and a leader that names
                // none is asked again.
                Some(Ok(listed)) if listed.offset < 0 && matches!(question.unresolved, Unresolved::Timestamp(0..)) => {
                    if state.positions.current(&question.partition, question.version).is_some() {
                        state.positions.seek(&question.partition, Start::End);
                    }
                }
                Some(Ok(listed)) if listed.offset >= 0 => {
                    let offset = EpochOffset { offset: listed.offset, epoch: listed.leader_epoch };
                    state.positions.handle_offset(&question.partition, question.version, offset);
                }
                Some(Err(error)) if !error.is_retriable() => {
                    state.positions.ask_again(&question, |_| now + REFUSED);
                    let source = RequestError::broker("an offset by time", *error, None);
                    errors.push(ConsumeError::Partition { partition: question.partition, source });
                }
                _ => {
                    stale = true;
                    state.positions.ask_again(&question, again);
                }
            }
        }
        drop(state);
        if stale {
            self.shared.client.metadata.request_refresh();
        }
        errors.into_iter().for_each(|error| self.shared.push(Err(error)));
        self.shared.wake_all();
    }

    /// What leaders say of the logs that were read.
    pub(super) fn take_epoch_ends(
        &self,
        now: Instant,
        questions: Vec<Question>,
        answers: Result<Option<Answers<Option<EpochOffset>>>, RequestError>,
    ) {
        let pauses = Pauses::new(&self.shared.client);
        let again = |failures| now + pauses.after(failures);
        let wall = self.shared.client.clock.wall_millis();
        let (answers, can_tell) = match answers {
            Ok(answers) => {
                let can_tell = answers.is_some();
                (answers.unwrap_or_default(), can_tell)
            }
            Err(error) => {
                tracing::debug!(%error, "ends of epochs had no answer");
                (Vec::new(), true)
            }
        };
        let answers: BTreeMap<_, _> = answers.into_iter().collect();
        let mut stale = false;
        let mut state = self.shared.state();
        for question in questions {
            let Question { partition, version, unresolved } = &question;
            match answers.get(partition) {
                _ if !can_tell => state.positions.skip_validation(&question),
                Some(Ok(end)) => {
                    let answered = state.positions.handle_epoch_answer(wall, partition, *version, *unresolved, *end);
                    if let Some(divergence) = answered {
                        state.take_divergence(partition, divergence);
                    }
                }
                Some(Err(error)) if !error.is_retriable() => {
                    state.positions.ask_again(&question, |_| now + REFUSED);
                    let source = RequestError::broker("the end of a leader's epoch", *error, None);
                    state.push(Err(ConsumeError::Partition { partition: question.partition, source }));
                }
                _ => {
                    stale = true;
                    state.positions.ask_again(&question, again);
                }
            }
        }
        drop(state);
        if stale {
            self.shared.client.metadata.request_refresh();
        }
        self.shared.wake_all();
    }
}
