//! How long a broker is to hold a poll that it has nothing for: never longer than `fetch.max.wait.ms`, and where nothing came
//! of the last one a little less, so that the polls of all brokers end at the same moments. A client that is woken by each of
//! twelve brokers at a time of its own takes three times the CPU of one that is woken by all of them together.

use std::time::{Duration, Instant};

/// So much before its moment a poll is on time.
const EARLY: Duration = Duration::from_millis(2);

/// Of one fetcher. All those of a consumer have the same `start` and `most`, and so the same moments: multiples of the one
/// after the other.
pub(super) struct Rhythm {
    start: Instant,
    most: Duration,
    /// The last poll: when it began, and how long it was to be held.
    last: Option<(Instant, Duration)>,
    /// The way there and back, of a poll that nothing came of.
    way: Option<Duration>,
}

impl Rhythm {
    pub(super) fn new(start: Instant, most: Duration) -> Self {
        Self { start, most, last: None, way: None }
    }

    /// How long the poll that begins now is to be held.
    ///
    /// A poll that begins late for a moment, by the way that the one before took, is shorter by that, so that one is put for
    /// each moment and no more; to get there, a few are shorter by a quarter. Behind a long way nothing is shortened,
    /// for a client that takes twice as long to ask would ask twice as often.
    pub(super) fn begin(&mut self, now: Instant) -> Duration {
        let wait = match self.way {
            Some(way) if way < self.most / 8 => self.most - self.late(now).min(self.most / 4),
            _ => self.most,
        };
        self.last = Some((now, wait));
        wait
    }

    /// How long the last moment is ago: in whole milliseconds, as brokers count. One that is about to come is as good as
    /// there: brokers end a poll up to a millisecond early.
    fn late(&self, now: Instant) -> Duration {
        let past = now.saturating_duration_since(self.start).as_millis();
        let past = past.checked_rem(self.most.as_millis()).unwrap_or(0);
        let late = Duration::from_millis(u64::try_from(past).unwrap_or(0));
        if late + EARLY >= self.most { Duration::ZERO } else { late }
    }

    /// The poll has ended, with nothing or with something.
    pub(super) fn end(&mut self, now: Instant, is_empty: bool) {
        let way = |(begun, wait)| now.saturating_duration_since(begun).saturating_sub(wait);
        self.way = self.last.take().filter(|_| is_empty).map(way);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_millis(500);

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Polls from `begun` after the start on, each with a way of its own: when each began and how long it was to be held.
    fn polls(begun: Duration, ways: impl IntoIterator<Item = Duration>) -> Vec<(Duration, Duration)> {
        let start = Instant::now();
        let mut rhythm = Rhythm::new(start, MOST);
        let mut at = begun;
        let poll = |way| {
            let wait = rhythm.begin(start + at);
            let poll = (at, wait);
            at += wait + way;
            rhythm.end(start + at, true);
            poll
        };
        ways.into_iter().map(poll).collect()
    }

    #[test]
    fn polls_that_bring_nothing_end_together_wherever_they_begin_and_are_one_for_each_moment() {
        for (begun, way) in (0..500).flat_map(|begun| [0, 1, 7, 60].map(|way| (ms(begun), ms(way)))) {
            let polls = polls(begun, [way; 16]);
            assert_eq!(polls[0].1, MOST, "nothing is known yet");
            for (begun, wait) in &polls {
                assert!((MOST * 3 / 4..=MOST).contains(wait), "{wait:?} from {begun:?}");
            }
            for pair in polls[10..].windows(2) {
                let (end, next) = (pair[0].0 + pair[0].1, pair[1].0);
                assert!((end + EARLY).as_millis() % 500 <= 2, "{end:?} from {begun:?}, with a way of {way:?}");
                assert_eq!(next - pair[0].0, MOST, "one for each moment");
            }
        }
    }

    /// Kafka counts a poll's time from the millisecond in which it came, so that it ends up to one early.
    #[test]
    fn poll_that_ends_within_a_millisecond_before_its_moment_is_on_time() {
        let micros = Duration::from_micros;
        for phase in (0..1_000).step_by(20).map(micros) {
            let start = Instant::now();
            let mut rhythm = Rhythm::new(start, MOST);
            // The millisecond of a broker whose clock is that much ahead.
            let came = |at: Duration| micros((at + phase).as_micros() as u64 / 1_000 * 1_000).saturating_sub(phase);
            let (mut at, mut polls) = (ms(123), Vec::new());
            for poll in 0..200 {
                let wait = rhythm.begin(start + at);
                polls.push((at, wait));
                let way = micros(poll * 7_919 % 300);
                at = came(at + way / 2) + wait + way / 2;
                rhythm.end(start + at, true);
            }
            let settled = &polls[10..];
            let shortest = settled.iter().map(|(_, wait)| *wait).min();
            assert!(shortest >= Some(MOST - ms(2)), "{shortest:?}, {phase:?} ahead");
            let off = (settled[189].0 - settled[0].0).abs_diff(189 * MOST);
            assert!(off < ms(2), "one for each moment, and not {off:?} off");
        }
    }

    #[test]
    fn parts_of_a_millisecond_do_not_add_up() {
        let way = Duration::from_micros(730);
        let polls = polls(ms(3), [way; 500]);
        let late = |(begun, wait): &(Duration, Duration)| (*begun + *wait).as_micros() % 500_000;
        assert!(polls[5..].iter().all(|poll| late(poll) < 1_000), "{:?}", polls.iter().map(late).max());
    }

    #[test]
    fn ways_that_differ_each_time_bring_about_no_more_polls() {
        let ways = |poll: u64| ms(poll * 7_919 % 170);
        let polls = polls(ms(3), (0..2_000).map(ways));
        let last = polls.last().map(|(begun, _)| *begun).unwrap_or_default();
        assert!(last >= 1_998 * MOST, "2,000 polls within {last:?}");
    }

    #[test]
    fn nothing_is_shortened_behind_a_long_way_or_after_an_answer_that_brought_something() {
        let waits = |way| polls(ms(123), [way; 12]).into_iter().map(|(_, wait)| wait).collect::<Vec<_>>();
        assert_eq!(waits(ms(63)), [MOST; 12]);
        let start = Instant::now();
        let mut rhythm = Rhythm::new(start, MOST);
        rhythm.begin(start);
        rhythm.end(start + ms(501), true);
        assert_eq!(rhythm.begin(start + ms(501)), ms(499));
        rhythm.end(start + ms(900), false);
        assert_eq!(rhythm.begin(start + ms(900)), MOST);
        // A fetch that failed is as one that was not put.
        rhythm.end(start + ms(1_405), true);
        rhythm.begin(start + ms(1_405));
        assert_eq!(Rhythm::new(start, Duration::ZERO).begin(start + ms(7)), Duration::ZERO);
    }
}
