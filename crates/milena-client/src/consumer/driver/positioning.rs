//! Where partitions start: questions of the positions put to the coordinator and to leaders, and their answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milena_core::consumer::positions::{Question, Start, Unresolved};
use milena_protocol::ErrorCode;

use super::{Answer, Driver};
use crate::consumer::config::Isolation;
use crate::consumer::error::ConsumeError;
use crate::consumer::offsets::{self, Answers, Listed, OffsetAndMetadata};
use crate::consumer::outages::Awaited;
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
        let mut by_leader: BTreeMap<i32, Vec<Question>> = BTreeMap::new();
        {
            let state = self.shared.state();
            for question in by_time {
                let position = state.positions.get(&question.partition);
                // Questions by time are put only where there is a leader.
                let leader = position.and_then(|position| position.leader).map_or(-1, |(leader, _)| leader);
                by_leader.entry(leader).or_default().push(question);
            }
        }
        for (node, questions) in by_leader {
            let shared = Arc::clone(&self.shared);
            self.spawn("offsets by time", async move {
                let targets = questions.iter().filter_map(|question| match question.unresolved {
                    Unresolved::Timestamp(timestamp) => Some((question.partition.clone(), timestamp)),
                    Unresolved::Committed => None,
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

    fn retry_at(&mut self, now: Instant) -> Instant {
        let backoff = self.shared.client.retry_backoff();
        let wait = self.shared.client.chance.with(|rng| backoff.delay(self.questions_failed, rng));
        self.questions_failed = self.questions_failed.saturating_add(1);
        now + wait
    }

    pub(super) fn take_committed(
        &mut self,
        now: Instant,
        questions: Vec<Question>,
        answers: Result<Answers<Option<OffsetAndMetadata>>, ErrorCode>,
    ) {
        let again = self.retry_at(now);
        let answers = match answers {
            Ok(answers) => {
                self.questions_failed = 0;
                answers
            }
            Err(error) => {
                if matches!(error, ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_NOT_AVAILABLE) {
                    self.forget_coordinator();
                }
                questions.iter().map(|question| (question.partition.clone(), Err(error))).collect()
            }
        };
        let wall = self.shared.client.clock.wall_millis();
        let mut errors = Vec::new();
        let mut state = self.shared.state();
        for question in questions {
            let answer = answers.iter().find(|(partition, _)| *partition == question.partition);
            match answer.map(|(_, answer)| answer) {
                Some(Ok(committed)) => {
                    let offset = committed.as_ref().map(|committed| committed.offset);
                    let taken = state.positions.handle_committed(wall, &question.partition, question.version, offset);
                    errors.extend(taken.err().map(ConsumeError::from));
                }
                Some(Err(error)) if !error.is_retriable() => {
                    state.positions.ask_again(&question.partition, question.version, now + REFUSED);
                    let source = RequestError::broker("the committed offset", *error, None);
                    errors.push(ConsumeError::Partition { partition: question.partition, source });
                }
                _ => state.positions.ask_again(&question.partition, question.version, again),
            }
        }
        drop(state);
        errors.into_iter().for_each(|error| self.shared.push(Err(error)));
        self.shared.wake_all();
    }

    pub(super) fn take_listed(
        &mut self,
        now: Instant,
        questions: Vec<Question>,
        answers: Result<Answers<Listed>, RequestError>,
    ) {
        let again = self.retry_at(now);
        let answers = match answers {
            Ok(answers) => {
                self.questions_failed = 0;
                answers
            }
            Err(error) => {
                tracing::debug!(%error, "offsets by time had no answer");
                Vec::new()
            }
        };
        let mut errors = Vec::new();
        let mut stale = false;
        let mut state = self.shared.state();
        for question in questions {
            let answer = answers.iter().find(|(partition, _)| *partition == question.partition);
            match answer.map(|(_, answer)| answer) {
                // Nothing is that young: what comes next is. The ends of a log have an offset, and a leader that names
                // none is asked again.
                Some(Ok(listed)) if listed.offset < 0 && matches!(question.unresolved, Unresolved::Timestamp(0..)) => {
                    if state.positions.current(&question.partition, question.version).is_some() {
                        state.positions.seek(&question.partition, Start::End);
                    }
                }
                Some(Ok(listed)) if listed.offset >= 0 => {
                    state.positions.handle_offset(&question.partition, question.version, listed.offset);
                }
                Some(Err(error)) if !error.is_retriable() => {
                    state.positions.ask_again(&question.partition, question.version, now + REFUSED);
                    let source = RequestError::broker("an offset by time", *error, None);
                    errors.push(ConsumeError::Partition { partition: question.partition, source });
                }
                _ => {
                    stale = true;
                    state.positions.ask_again(&question.partition, question.version, again);
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
}
