use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use super::*;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(wait: &mut AwaitTurn, count: &Arc<Count>) -> Option<(Turn, Option<Reservation>)> {
    let waker = Waker::from(Arc::clone(count));
    match Pin::new(wait).poll(&mut Context::from_waker(&waker)) {
        Poll::Ready(granted) => Some(granted),
        Poll::Pending => None,
    }
}

#[test]
fn headroom_is_left_to_those_who_take_turns_and_never_passes_the_limit() {
    let budget = ByteBudget::new(100);
    let _wishes = [budget.keep_headroom(20), budget.keep_headroom(10)];
    assert!(budget.try_reserve(81).is_some(), "whoever is alone gets what it needs");
    let first = budget.try_reserve(80).expect("the headroom stays");
    assert!(budget.try_reserve(1).is_none());
    let (turn, copy) = budget.try_turn(20).expect("ahead of who fills it");
    assert!(copy.is_some() && budget.try_turn(1).is_none());
    drop((first, copy, turn));
    assert_eq!((budget.used(), budget.peak.load(Ordering::SeqCst)), (0, 100));

    let small = ByteBudget::new(100);
    let _wish = small.keep_headroom(1_000);
    assert!(small.try_reserve(50).is_some_and(|_held| small.try_reserve(25).is_some()), "a quarter at most");
}

#[test]
fn headroom_is_given_back_with_whoever_wished_for_it() {
    let budget = ByteBudget::new(100);
    let (large, small) = (budget.keep_headroom(20), budget.keep_headroom(10));
    let held = budget.try_reserve(80).expect("the headroom stays");
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut wait = budget.reserve(10);
    assert!(Pin::new(&mut wait).poll(&mut Context::from_waker(&waker)).is_pending());
    drop(large);
    assert_eq!((count.0.load(Ordering::SeqCst), budget.used()), (1, 90), "whoever waited has it");
    assert!(budget.try_reserve(1).is_none(), "the other wish is alive");
    drop(small);
    assert!(budget.try_reserve(10).is_some());
    drop((wait, held));
    assert_eq!(budget.used(), 0);
}

#[test]
fn who_lacks_room_waits_for_those_at_work_in_turn() {
    let budget = ByteBudget::new(100);
    let full = budget.try_reserve(80).expect("empty");
    let (first, first_bytes) = budget.try_turn(20).expect("room");
    let counts = [Arc::new(Count::default()), Arc::new(Count::default())];
    let mut waits = [budget.turn(20), budget.turn(10)];
    for (wait, count) in waits.iter_mut().zip(&counts) {
        assert!(poll(wait, count).is_none());
    }
    assert!(budget.try_turn(1).is_none(), "nobody overtakes");
    drop(first_bytes);
    let woken = |at: usize| counts[at].0.load(Ordering::SeqCst);
    assert_eq!((woken(0), woken(1)), (1, 0), "bytes that come back go to the first");
    let (second, second_bytes) = poll(&mut waits[0], &counts[0]).expect("granted");
    assert_eq!(second_bytes.as_ref().map(Reservation::bytes), Some(20));
    drop(first);
    assert_eq!(woken(1), 0, "one is still at work");
    // What comes of it is kept, and what it was made of is not.
    drop(full);
    drop(second);
    let (_, bytes) = poll(&mut waits[1], &counts[1]).expect("granted");
    assert_eq!(bytes.map(|bytes| bytes.bytes()), Some(10));
    drop(second_bytes);
    assert_eq!(budget.used(), 0);
}

#[test]
fn with_nobody_at_work_the_first_goes_on_without_bytes_and_alone() {
    let budget = ByteBudget::new(100);
    let _full = budget.book(200);
    let (turn, bytes) = budget.try_turn(1).expect("nothing to wait for");
    assert!(bytes.is_none());
    let count = Arc::new(Count::default());
    let mut waits = [budget.turn(1), budget.turn(1)];
    for wait in &mut waits {
        assert!(poll(wait, &count).is_none());
    }
    drop(turn);
    assert_eq!(count.0.load(Ordering::SeqCst), 1, "one at a time");
    let (turn, bytes) = poll(&mut waits[0], &count).expect("its turn");
    assert!(bytes.is_none() && poll(&mut waits[1], &count).is_none());
    drop(turn);
    assert!(poll(&mut waits[1], &count).is_some());
    assert_eq!(budget.used(), 200);
}

#[test]
fn dropped_wait_for_a_turn_leaves_no_trace_granted_or_not() {
    let budget = ByteBudget::new(100);
    let (turn, bytes) = budget.try_turn(100).expect("room");
    let count = Arc::new(Count::default());
    let (mut unseen, mut queued, mut last) = (budget.turn(70), budget.turn(100), budget.turn(30));
    for wait in [&mut unseen, &mut queued, &mut last] {
        assert!(poll(wait, &count).is_none());
    }
    drop((bytes, turn));
    assert_eq!(budget.used(), 70);
    drop(queued);
    assert!(poll(&mut last, &count).is_some_and(|(_, bytes)| bytes.is_some()), "was behind the dropped one");
    drop(unseen);
    assert_eq!(budget.used(), 0);
    assert!(budget.try_turn(100).is_some_and(|(_, bytes)| bytes.is_some()));
}
