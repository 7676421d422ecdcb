use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Wake;

use milena_protocol::ErrorCode;

use super::*;

#[derive(Default)]
struct Task(AtomicU32);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Task {
    fn woken(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

fn poll(completion: &Completion, index: u32, slot: &mut WaitSlot, task: &Arc<Task>) -> Poll<RecordOutcome> {
    let waker = Waker::from(Arc::clone(task));
    completion.poll(index, slot, &mut Context::from_waker(&waker))
}

fn acknowledged(base: i64) -> BatchOutcome {
    BatchOutcome::Acknowledged { base_offset: Some(base), log_append_time: None }
}

fn at(offset: i64) -> Poll<RecordOutcome> {
    Poll::Ready(RecordOutcome::Acknowledged { offset: Some(offset), log_append_time: None })
}

#[test]
fn each_task_is_woken_once_however_many_records_it_waits_for() {
    let completion = Completion::new("t".into(), 3);
    let tasks = [Arc::new(Task::default()), Arc::new(Task::default())];
    let mut slots: Vec<_> = (0..200).map(|_| WaitSlot::default()).collect();
    for (index, slot) in slots.iter_mut().enumerate() {
        assert!(poll(&completion, index as u32, slot, &tasks[index / 100]).is_pending());
    }
    assert_eq!(completion.lock().waiters.len(), 2);
    Arc::clone(&completion).close(200).resolve(acknowledged(1_000));
    assert_eq!(tasks.each_ref().map(|task| task.woken()), [1, 1]);
    for (index, slot) in slots.iter_mut().enumerate() {
        assert_eq!(poll(&completion, index as u32, slot, &tasks[0]), at(1_000 + index as i64));
    }
}

#[test]
fn parts_of_a_split_batch_answer_for_their_own_records() {
    let completion = Completion::new("t".into(), 0);
    let task = Arc::new(Task::default());
    let mut slots: [WaitSlot; 10] = Default::default();
    let mut all = WaitSlot::default();
    let waker = Waker::from(Arc::clone(&task));
    let mut whole = Arc::clone(&completion).close(10);
    let front = whole.split_off_front(4);
    let middle = whole.split_off_front(1);
    assert_eq!([front.records(), middle.records(), whole.records()], [4, 1, 5]);

    front.resolve(acknowledged(70));
    assert_eq!(poll(&completion, 3, &mut slots[3], &task), at(73));
    assert!(poll(&completion, 4, &mut slots[4], &task).is_pending());
    assert!(completion.poll_all(&mut all, &mut Context::from_waker(&waker)).is_pending());
    let failure = ProduceFailure::Broker { code: ErrorCode::INVALID_RECORD, message: None };
    middle.resolve(BatchOutcome::Failed(failure.clone()));
    assert_eq!(task.woken(), 1);
    assert_eq!(poll(&completion, 4, &mut slots[4], &task), Poll::Ready(RecordOutcome::Failed(failure)));
    assert!(poll(&completion, 9, &mut slots[9], &task).is_pending());
    whole.resolve(acknowledged(74));
    assert_eq!(poll(&completion, 9, &mut slots[9], &task), at(78));
    assert!(completion.poll_all(&mut all, &mut Context::from_waker(&waker)).is_ready());
}

#[test]
fn dropped_handle_wakes_nobody_and_the_others_of_its_task_still_do() {
    let completion = Completion::new("t".into(), 0);
    let [alone, shared] = [Arc::new(Task::default()), Arc::new(Task::default())];
    let mut slots: [WaitSlot; 3] = Default::default();
    assert!(poll(&completion, 0, &mut slots[0], &alone).is_pending());
    assert!(poll(&completion, 1, &mut slots[1], &shared).is_pending());
    assert!(poll(&completion, 2, &mut slots[2], &shared).is_pending());
    completion.leave(&mut slots[0]);
    completion.leave(&mut slots[1]);
    completion.leave(&mut slots[1]);
    Arc::clone(&completion).close(3).resolve(acknowledged(0));
    assert_eq!((alone.woken(), shared.woken()), (0, 1));
}

#[test]
fn handle_that_moves_to_another_task_wakes_that_one() {
    let completion = Completion::new("t".into(), 0);
    let [before, after] = [Arc::new(Task::default()), Arc::new(Task::default())];
    let mut slot = WaitSlot::default();
    assert!(poll(&completion, 0, &mut slot, &before).is_pending());
    assert!(poll(&completion, 0, &mut slot, &after).is_pending());
    Arc::clone(&completion).close(1).resolve(acknowledged(0));
    assert_eq!((before.woken(), after.woken()), (0, 1));
}
