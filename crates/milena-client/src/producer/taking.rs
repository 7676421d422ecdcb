//! What takes a partition's records: one open batch; or, with [`Ordering::Key`](super::Ordering::Key) and several tasks
//! at once, one for each share of the keys.
//!
//! A key has one place for as long as the partition is spread, and whatever changes that closes all open batches first:
//! so batches of one key are closed, and written, in the order of its records.

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Instant;

use milena_core::producer::completion::Completion;
use milena_core::producer::open_batch::OpenBatch;

use super::delivery::Appended;
use super::partition::After;
use super::record::Record;
use super::shared::lock;
use super::topic_config::Settings;

/// After so many records the clock is read again, if the batch did not change before.
const RECORDS_PER_CLOCK: u32 = 64;
/// So many records are looked at before one batch becomes several.
const RECORDS_TO_SPREAD: u32 = 1_024;
/// Of them so many must have found the partition locked: one in sixteen.
const CONTENDED_TO_SPREAD: u32 = RECORDS_TO_SPREAD / 16;
/// So many records without anyone in another's way, and one batch takes them all again.
const RECORDS_TO_GATHER: u32 = 16 * 1_024;

/// An open batch, and what is remembered from one to the next.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) open: Option<OpenBatch>,
    pub(super) wall_millis: i64,
    records_since_clock: u32,
    /// How large the last batches became.
    pub(super) usual: usize,
    /// Appends that found the slot locked, since its batch was closed last.
    contended: u32,
}

impl Slot {
    /// Appends `record`, if there is an open batch with room for it and the clock need not be read.
    #[inline]
    pub(super) fn append_in_place(
        &mut self,
        settings: &Settings,
        record: &Record<'_>,
        after: &mut After,
    ) -> Option<Appended> {
        let open = self.open.as_mut().filter(|open| self.records_since_clock != 0 && !open.is_empty())?;
        let timestamp = record.timestamp.unwrap_or(self.wall_millis);
        let (limit, before) = (settings.batch_size, open.len());
        // What is wrong with a record is found out with care.
        let index = open.append(limit, timestamp, record.key, record.value, record.headers).ok().flatten()?;
        after.timestamp = timestamp;
        after.appended = open.len() - before;
        after.is_full = open.len() >= settings.batch_size;
        let completion = Arc::clone(open.completion());
        self.count_record();
        Some(Appended { completion, index })
    }

    #[inline]
    pub(super) fn count_record(&mut self) {
        self.records_since_clock = (self.records_since_clock + 1) % RECORDS_PER_CLOCK;
    }

    /// Whether the wall clock is to be read for the next record.
    pub(super) fn wants_clock(&self) -> bool {
        self.records_since_clock == 0
    }

    /// The wall clock was read for the record that opens a batch.
    pub(super) fn read_clock(&mut self, wall_millis: i64) {
        self.wall_millis = wall_millis;
        self.records_since_clock = 1;
    }

    /// An empty batch must not stay: its age would count for records that come much later.
    pub(super) fn drop_empty(&mut self) {
        self.open.take_if(|open| open.is_empty());
    }

    /// The open batch, if there is one with records in it; the slot is ready for the next.
    fn take(&mut self) -> Option<OpenBatch> {
        let open = self.open.take_if(|open| !open.is_empty())?;
        // Batches that linger closes early say less about the next one than full ones.
        self.usual = open.len().max(self.usual / 2);
        Some(open)
    }
}

/// A slot of a spread partition, locked by itself.
pub(super) type Share = Mutex<Slot>;

/// Locks the share that `key` has, or a handle where there is none; counts whoever is in another's way.
#[inline]
pub(super) fn lock_share<'a>(shares: &'a [Share], key: Option<&[u8]>, handle: u64) -> (usize, MutexGuard<'a, Slot>) {
    let index = share_of(shares.len(), key, handle);
    let share = &shares[index];
    match share.try_lock() {
        Ok(slot) => (index, slot),
        Err(TryLockError::WouldBlock) => {
            let mut slot = lock(share);
            slot.contended += 1;
            (index, slot)
        }
        Err(TryLockError::Poisoned(poisoned)) => (index, poisoned.into_inner()),
    }
}

/// Which of `count` shares, a power of two, is the key's. Looks at no more than 16 bytes of it: keys that differ only
/// between them have one share, which is no harm but to balance.
#[inline]
fn share_of(count: usize, key: Option<&[u8]>, handle: u64) -> usize {
    let word = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let folded = match key {
        None => handle,
        Some(key) if key.len() < 8 => key.iter().fold(1, |folded, byte| folded << 8 | u64::from(*byte)),
        Some(key) => word(key.first_chunk()) ^ word(key.last_chunk()).rotate_left(29) ^ key.len() as u64,
    };
    // Fibonacci hashing: the highest bits, and they alone, depend on all others.
    let mixed = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 1 >> (63 - count.trailing_zeros())) as usize
}

/// What the partition's lock guards of what takes its records.
#[derive(Default)]
pub(super) struct Taking {
    /// Takes all records, unless the partition is spread.
    pub(super) whole: Slot,
    spread: Option<Spread>,
    records: u32,
    contended: u32,
}

/// A partition that is spread.
struct Spread {
    shares: Arc<[Share]>,
    /// What the shares hold open: known without their locks.
    open: Vec<Option<Opened>>,
    records: u32,
    contended: u32,
}

struct Opened {
    created: Instant,
    completion: Arc<Completion>,
}

impl Taking {
    /// Counts an append that found the partition locked, or not; says whether it is time to spread.
    pub(super) fn is_contended(&mut self, found_locked: bool) -> bool {
        self.records += 1;
        self.contended += u32::from(found_locked);
        if self.records < RECORDS_TO_SPREAD {
            return false;
        }
        let is_contended = self.contended >= CONTENDED_TO_SPREAD;
        (self.records, self.contended) = (0, 0);
        is_contended && self.spread.is_none()
    }

    /// The shares, while the partition is spread.
    pub(super) fn shares(&self) -> Option<&Arc<[Share]>> {
        self.spread.as_ref().map(|spread| &spread.shares)
    }

    /// From now on records go to `shares`. Nothing may be open.
    pub(super) fn spread(&mut self, shares: &Arc<[Share]>) {
        debug_assert!(!self.has_open(), "what is open would never be sent");
        let open = shares.iter().map(|_| None).collect();
        self.spread = Some(Spread { shares: Arc::clone(shares), open, records: 0, contended: 0 });
    }

    /// Whether the shares have been in nobody's way for long. No share may be locked.
    pub(super) fn is_calm(&mut self) -> bool {
        let Some(spread) = self.spread.as_mut().filter(|spread| spread.records >= RECORDS_TO_GATHER) else {
            return false;
        };
        let is_calm = spread.contended == 0;
        (spread.records, spread.contended) = (0, 0);
        is_calm
    }

    /// From now on records go to one batch again. Nothing may be open.
    pub(super) fn gather(&mut self) {
        debug_assert!(!self.has_open(), "what is open in a share would never be sent");
        self.spread = None;
    }

    /// A share's batch was opened: its first record is in it.
    pub(super) fn opened(&mut self, share: usize, slot: &Slot) {
        if let (Some(spread), Some(open)) = (&mut self.spread, &slot.open) {
            let opened = || Opened { created: open.created(), completion: Arc::clone(open.completion()) };
            spread.open[share].get_or_insert_with(opened);
        }
    }

    /// The batch of `slot`, which is the share's, or the whole partition's.
    pub(super) fn close(&mut self, slot: &mut Slot, share: Option<usize>) -> Option<OpenBatch> {
        let open = slot.take()?;
        if let (Some(spread), Some(share)) = (&mut self.spread, share) {
            spread.open[share] = None;
            spread.records += open.record_count();
            spread.contended += std::mem::take(&mut slot.contended);
        }
        Some(open)
    }

    /// The oldest open batch. No share may be locked.
    pub(super) fn close_oldest(&mut self) -> Option<OpenBatch> {
        let Some(spread) = &self.spread else { return self.whole.take() };
        let (_, share) = spread.oldest()?;
        let shares = Arc::clone(&spread.shares);
        let mut slot = lock(&shares[share]);
        self.close(&mut slot, Some(share))
    }

    /// Whether any record is in an open batch.
    pub(super) fn has_open(&self) -> bool {
        self.oldest().is_some()
    }

    /// When the oldest open batch was opened.
    pub(super) fn oldest(&self) -> Option<Instant> {
        match &self.spread {
            Some(spread) => spread.oldest().map(|(created, _)| created),
            None => self.whole.open.as_ref().filter(|open| !open.is_empty()).map(OpenBatch::created),
        }
    }

    /// The completions of all open batches.
    pub(super) fn completions(&self) -> impl Iterator<Item = &Arc<Completion>> {
        let whole = self.whole.open.as_ref().filter(|open| !open.is_empty()).map(OpenBatch::completion);
        let shares = self.spread.iter().flat_map(|spread| spread.open.iter().flatten());
        whole.into_iter().chain(shares.map(|opened| &opened.completion))
    }
}

impl Spread {
    fn oldest(&self) -> Option<(Instant, usize)> {
        let open = self.open.iter().enumerate();
        open.filter_map(|(share, opened)| Some((opened.as_ref()?.created, share))).min()
    }
}

#[cfg(test)]
mod tests {
    use milena_core::producer::budget::ByteBudget;
    use milena_core::producer::buffers::BufferPool;

    use super::*;

    #[test]
    fn key_has_one_share_and_keys_are_spread_evenly() {
        let mut counts = [0; 8];
        for number in 0..8_000 {
            let key = format!("order-{number}");
            let share = share_of(8, Some(key.as_bytes()), number);
            assert_eq!(share, share_of(8, Some(key.as_bytes()), number + 1), "whichever handle it comes from");
            counts[share] += 1;
        }
        assert!(counts.iter().all(|count| (600..1_500).contains(count)), "{counts:?}");
        for shape in [|n: u64| format!("user{n:04}/profile"), |n| format!("{n:08}:account"), |n| format!("{n:08x}")] {
            let mut counts = [0; 64];
            (0..6_400).for_each(|number| counts[share_of(64, Some(shape(number).as_bytes()), 0)] += 1);
            assert!(counts.iter().all(|count| (40..250).contains(count)), "{}: {counts:?}", shape(0));
        }
        let short: Vec<_> = (0..=255).map(|byte| share_of(8, Some(&[byte]), 0)).collect();
        assert!((0..8).all(|share| short.iter().filter(|found| **found == share).count() > 16));
        let handles: Vec<_> = (0..64).map(|handle| share_of(8, None, handle)).collect();
        assert!((0..8).all(|share| handles.contains(&share)), "{handles:?}");
        assert_eq!(share_of(8, Some(b""), 1), share_of(8, Some(b""), 2));
    }

    /// A batch of a share, with `records` in it.
    fn fill(taking: &mut Taking, pool: &BufferPool, share: usize, records: u32) {
        let shares = Arc::clone(taking.shares().expect("it is spread"));
        let mut slot = lock(&shares[share]);
        let charge = pool.budget().try_reserve(BufferPool::capacity_for(1 << 16)).expect("room");
        let mut open = OpenBatch::new(pool, charge, Completion::new("t".into(), 0), Instant::now(), 0);
        for _ in 0..records {
            open.append(usize::MAX, 0, None, None, &[]).expect("encodable").expect("room");
        }
        slot.open = Some(open);
        taking.opened(share, &slot);
    }

    #[test]
    fn shares_that_are_in_nobodys_way_are_gathered_with_nothing_left_in_them() {
        let pool = BufferPool::new(ByteBudget::new(16 << 20));
        let mut taking = Taking::default();
        let shares: Arc<[Share]> = (0..8).map(|_| Share::default()).collect();
        taking.spread(&shares);
        fill(&mut taking, &pool, 0, 1);
        lock(&shares[0]).contended = 1;
        let mut closed = 0;
        for turn in 1_u32.. {
            if taking.is_calm() {
                // The first 16 K had somebody in another's way.
                assert!(turn > 2 * RECORDS_TO_GATHER / 1_000, "{turn}");
                break;
            }
            fill(&mut taking, &pool, 3, 1_000);
            while taking.close_oldest().is_some() {
                closed += 1;
            }
            assert!(turn < 100, "never calm");
        }
        fill(&mut taking, &pool, 5, 1);
        fill(&mut taking, &pool, 6, 1);
        assert_eq!((taking.has_open(), taking.completions().count()), (true, 2));
        assert!(taking.close_oldest().is_some() && taking.close_oldest().is_some());
        assert!(closed > 0 && !taking.has_open());
        taking.gather();
        assert!(taking.shares().is_none() && shares.iter().all(|share| lock(share).open.is_none()));
    }

    #[test]
    fn one_in_sixteen_in_the_way_is_contention() {
        let mut taking = Taking::default();
        let mut spread_at = None;
        for record in 0..4_096 {
            // One in 17, and then one in 16.
            let found_locked = if record < 2_048 { record % 17 == 0 } else { record % 16 == 0 };
            if taking.is_contended(found_locked) {
                spread_at.get_or_insert(record);
            }
        }
        assert_eq!(spread_at, Some(3_071));
    }
}
