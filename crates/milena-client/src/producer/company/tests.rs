//! A producer of one partition in a model of time: what a load makes of requests, and they of the load.

use super::*;

const MS: u64 = 1_000_000;
const US: u64 = 1_000;
const NEVER: u64 = u64::MAX;
const BYTES: usize = 100;
const TOKENS_PER_SECOND: f64 = 2_000.0;

#[derive(Clone, Copy)]
enum Load {
    /// So many records, a µs apart, as soon as all those before are acknowledged.
    Closed(u32),
    /// So many tasks, each with a record as soon as its last one is acknowledged.
    Tasks(u32),
    /// A record each so many ns.
    Open(u64),
    /// So many records, so many ns apart, at each so many ns.
    Bursts(u32, u64, u64),
}

struct Model {
    company: Company,
    epoch: Instant,
    rtt: u64,
    linger: u64,
    limit: usize,
    now: u64,
    tokens: f64,
    filled: u64,
    open: u32,
    must_linger: bool,
    in_flight: u32,
    answer: u64,
    look: u64,
    linger_ends: u64,
    requests: u64,
    records: u64,
    /// How many batches began to wait.
    stalls: u64,
}

impl Model {
    fn new(rtt: u64, limit: usize) -> Self {
        Self {
            company: Company::default(),
            epoch: Instant::now(),
            rtt,
            linger: 5 * MS,
            limit,
            now: 0,
            tokens: TOKENS_PER_SECOND,
            filled: 0,
            open: 0,
            must_linger: false,
            in_flight: 0,
            answer: NEVER,
            look: NEVER,
            linger_ends: NEVER,
            requests: 0,
            records: 0,
            stalls: 0,
        }
    }

    fn at(&self, nanos: u64) -> Instant {
        self.epoch + Duration::from_nanos(nanos)
    }

    /// When a timer that is set to `at` fires.
    fn fires(&self, at: Instant) -> u64 {
        ((at - self.epoch).as_nanos() as u64).div_ceil(MS) * MS
    }

    fn token(&mut self) -> bool {
        self.tokens += (self.now - self.filled) as f64 * 1e-9 * TOKENS_PER_SECOND;
        self.tokens = self.tokens.min(TOKENS_PER_SECOND);
        self.filled = self.now;
        let has = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(has));
        has
    }

    fn append(&mut self) {
        self.open += 1;
        self.records += 1;
        if self.open == 1 {
            self.must_linger = false;
            self.linger_ends = self.fires(self.at(self.now + self.linger));
        }
        if self.open as usize * BYTES >= self.limit && self.in_flight == 0 {
            self.send();
        }
        self.pump();
    }

    fn pump(&mut self) {
        if self.open == 0 || self.in_flight > 0 || self.must_linger {
            return;
        }
        let mut company = std::mem::take(&mut self.company);
        let may_go = company.may_go(Duration::from_nanos(self.linger), self.limit, || self.token());
        let (now, bytes) = (self.at(self.now), self.open as usize * BYTES);
        if may_go {
            company.went(now, self.open, bytes);
        } else {
            self.must_linger = true;
            self.stalls += 1;
            let look = company.waits(now, self.open, self.at(self.linger_ends));
            self.look = self.fires(look);
        }
        self.company = company;
        if may_go {
            self.send();
        }
    }

    fn send(&mut self) {
        if self.must_linger && self.look != NEVER {
            self.company.came();
        }
        self.requests += 1;
        self.in_flight = std::mem::take(&mut self.open);
        self.answer = self.now + self.rtt;
        (self.look, self.linger_ends, self.must_linger) = (NEVER, NEVER, false);
    }

    fn run(mut self, load: Load, seconds: u64) -> Self {
        let (mut next, mut left, mut burst) = match load {
            Load::Closed(records) | Load::Bursts(records, ..) => (0, records, 0),
            Load::Tasks(tasks) => (0, tasks, 0),
            Load::Open(_) => (0, u32::MAX, 0),
        };
        let mut unanswered = 0;
        while self.now < seconds * 1_000 * MS {
            let arrival = if left > 0 { next } else { NEVER };
            self.now = arrival.min(self.answer).min(self.look).min(self.linger_ends);
            if self.now == self.answer {
                let answered = std::mem::take(&mut self.in_flight);
                self.answer = NEVER;
                unanswered -= answered;
                match load {
                    Load::Tasks(_) => (left, next) = (left + answered, self.now + 10 * US),
                    Load::Closed(records) if unanswered == 0 && left == 0 => {
                        (left, next) = (records, self.now + 10 * US);
                    }
                    _ => {}
                }
                self.pump();
            } else if self.now == arrival {
                left -= 1;
                unanswered += 1;
                next += match load {
                    Load::Open(every) | Load::Bursts(_, every, _) => every,
                    Load::Closed(_) | Load::Tasks(_) => US,
                };
                if let Load::Bursts(records, _, every) = load
                    && left == 0
                {
                    burst += every;
                    (left, next) = (records, burst);
                }
                self.append();
            } else if self.now == self.look {
                self.look = NEVER;
                match self.company.look(self.at(self.now), self.open) {
                    Look::Go => {
                        self.must_linger = false;
                        self.pump();
                    }
                    Look::Again(at) => self.look = self.fires(at),
                    Look::Wait => {}
                }
            } else {
                self.linger_ends = NEVER;
                if self.in_flight == 0 {
                    self.send();
                }
            }
        }
        self
    }
}

#[test]
fn who_waits_for_acknowledgements_hardly_ever_waits_for_company() {
    for rtt in [30, 60, 100, 250, 400, 480].map(|us| us * US) {
        for load in [Load::Closed(1), Load::Closed(5), Load::Closed(100), Load::Tasks(4), Load::Tasks(64)] {
            let run = Model::new(rtt, 128 * 1_024).run(load, 4);
            let (most, ideal) = (run.requests, 4_000 * MS / (rtt + 20 * US));
            assert!(most > ideal * 8 / 10, "{rtt} ns: {most} requests of some {ideal}, {} stalls", run.stalls);
            assert!(run.stalls < 100, "{rtt} ns: {} stalls", run.stalls);
        }
    }
}

#[test]
fn round_that_nearly_fills_a_batch_is_not_taken_for_one_that_will() {
    for rtt in [100, 250, 500, 700, 900].map(|us| us * US) {
        for share in [50, 80, 99] {
            let records = 128 * 1_024 / BYTES * share / 100;
            let run = Model::new(rtt, 128 * 1_024).run(Load::Closed(records as u32), 4);
            let (rounds, ideal) = (run.records / records as u64, 4_000 * MS / (2 * rtt + records as u64 * US));
            assert!(rounds > ideal * 7 / 10, "{rtt} ns, {share} %: {rounds} rounds of {ideal}, {} stalls", run.stalls);
        }
    }
}

#[test]
fn steady_rate_has_no_more_requests_than_tokens_and_lingers() {
    for per_second in [2_500, 5_000, 10_000, 50_000, 200_000] {
        for rtt in [30, 100, 250].map(|us| us * US) {
            let run = Model::new(rtt, 1 << 20).run(Load::Open(1_000 * MS / per_second), 10);
            let most = 2_000 + 10 * (2_000 + 220);
            assert!(run.requests < most, "{per_second}/s, {rtt} ns: {} requests, at most {most}", run.requests);
        }
    }
}

#[test]
fn bursts_have_little_more() {
    for (records, apart, every) in [(100, 50 * US, 10 * MS), (10, 60 * US, MS), (1_000, 100 * US, 200 * MS)] {
        let run = Model::new(30 * US, 1 << 20).run(Load::Bursts(records, apart, every), 10);
        let most = 2_000 + 10 * 3_300;
        assert!(run.requests < most, "{records} each {every} ns: {} requests, at most {most}", run.requests);
    }
}

#[test]
fn who_fills_batches_sends_full_ones() {
    // 200 MB/s.
    let run = Model::new(100 * US, 128 * 1_024).run(Load::Open(500), 2);
    let full = run.records * BYTES as u64 / (128 * 1_024);
    assert!(run.requests < full + full / 10 + 100, "{} requests, {full} are full", run.requests);
}

/// Went at once so often, with a record each so many µs.
fn known(batches: u32, pause: u64) -> (Company, Instant) {
    let (mut company, mut now) = (Company::default(), Instant::now());
    for _ in 0..batches {
        now += Duration::from_micros(pause);
        company.went(now, 1, BYTES);
    }
    (company, now)
}

/// Waits until it is looked, with `came` more records then; returns what is to be done, and how many may go freely.
fn wait(company: &mut Company, now: Instant, came: u32) -> (Look, u32) {
    let linger = Duration::from_millis(5);
    let look = company.waits(now, 1, now + linger);
    let mut look = (company.look(look, 1 + came), look);
    while let (Look::Again(at), _) = look {
        look = (company.look(at, 1 + came), at);
    }
    let free = (0..).take_while(|_| company.may_go(linger, usize::MAX, || false)).count();
    (look.0, free as u32)
}

#[test]
fn slow_partition_says_nothing() {
    // Of hundreds whose broker has no tokens left.
    for per_second in [20, 100, 400] {
        let (mut company, now) = known(100, 1_000_000 / per_second);
        assert_eq!(wait(&mut company, now, 0), (Look::Wait, 0), "{per_second}/s");
    }
    assert_eq!(wait(&mut Company::default(), Instant::now(), 0), (Look::Wait, 0));
}

#[test]
fn each_wait_in_vain_frees_more_until_company_comes() {
    let (mut company, now) = known(100, 40);
    let free: Vec<_> = (0..11).map(|_| wait(&mut company, now, 0)).collect();
    let expected = [8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 4_096];
    assert_eq!(free, expected.map(|free| (Look::Go, free)));
    assert_eq!(wait(&mut company, now, 200), (Look::Wait, 0));
    assert_eq!(wait(&mut company, now, 0), (Look::Go, 8));
    company.came();
    assert_eq!(wait(&mut company, now, 0), (Look::Go, 8), "a batch that was full in time is company, too");
}

#[test]
fn late_look_at_a_batch_that_was_full_is_none_at_the_next() {
    let (mut company, now) = known(100, 40);
    let linger_ends = now + Duration::from_millis(5);
    company.waits(now, 1, linger_ends);
    let look = company.waits(now, 1, linger_ends);
    company.came();
    assert_eq!(company.look(look, 1), Look::Go);
}

#[test]
fn what_waited_between_two_that_went_says_nothing_of_their_pace() {
    let (mut company, mut now) = known(100, 40);
    for _ in 0..100 {
        wait(&mut company, now, 0);
        now += Duration::from_millis(5);
        company.went(now, 1, BYTES);
        company.came();
    }
    assert_eq!(wait(&mut company, now, 60), (Look::Go, 8), "125 were to come");
}

#[test]
fn short_linger_goes_by_tokens_alone() {
    let mut company = Company { free: 5, ..Company::default() };
    assert!(!company.may_go(Duration::from_millis(1), 1, || false));
    assert!(company.may_go(Duration::from_millis(1), 1, || true));
    assert_eq!(company.free, 5);
    assert!(company.may_go(Duration::from_millis(2), 1, || false));
}
