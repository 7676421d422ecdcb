//! The byte budget of everything that the consumers of a client fetch ahead. A fetch reserves what it may bring before it
//! is sent; what it did bring stays charged until its last record set is dropped. More than reserved (a broker always
//! sends one whole batch) is debt, and nothing new is granted until it is paid.
//!
//! Every fetcher, of whichever consumer and broker, has an account and an equal share: what one leaves unread is never in
//! the way of another. One that holds nothing may always borrow a small fetch, so that nobody waits for others to read.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// What is lent where shares are smaller than a fetch: a batch of the usual size, for more than that comes anyway.
const SMALLEST_LOAN: usize = 64 << 10;

/// The budget, shared by all fetchers of a client.
pub struct PrefetchBudget {
    capacity: usize,
    used: AtomicUsize,
    accounts: AtomicUsize,
    /// Called when bytes came back, or shares grew.
    freed: Box<dyn Fn() + Send + Sync>,
}

/// One fetcher's part in the budget. When it is dropped the shares of the others grow, though what it brought stays
/// charged.
pub struct Account {
    ledger: Arc<Ledger>,
}

struct Ledger {
    budget: Arc<PrefetchBudget>,
    reserved: AtomicUsize,
    held: AtomicUsize,
}

/// How much a fetch would like to bring.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// No more than this.
    pub most: usize,
    /// No less than this, or the fetch is not worth its request.
    pub least: usize,
    /// It may take one of so many slices of the share: a long poll that is parked must not hold all of it.
    pub slices: usize,
}

impl fmt::Debug for PrefetchBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrefetchBudget").field("capacity", &self.capacity).field("used", &self.used()).finish()
    }
}

impl PrefetchBudget {
    /// A budget of `capacity` bytes; `freed` is called whenever more may be granted than before.
    pub fn new(capacity: usize, freed: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        let (used, accounts) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { capacity, used, accounts, freed: Box::new(freed) })
    }

    /// Bytes reserved or charged now; above the capacity while in debt.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Bytes in all.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Opens an account, which makes the shares of the others smaller.
    pub fn open(self: &Arc<Self>) -> Account {
        self.accounts.fetch_add(1, Ordering::AcqRel);
        let (reserved, held) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Account { ledger: Arc::new(Ledger { budget: Arc::clone(self), reserved, held }) }
    }

    /// What one account may have of it.
    pub fn share(&self) -> usize {
        self.capacity / self.accounts.load(Ordering::Acquire).max(1)
    }
}

impl Account {
    /// Reserves bytes for a fetch, or says that it has to wait. One caller at a time. `parked` says how many of the bytes
    /// held are such that nobody will read them before others have been fetched; it is asked where there is no room.
    pub fn reserve(&self, wish: Wish, parked: impl FnOnce() -> usize) -> Option<Charge> {
        let Ledger { budget, reserved, held } = &*self.ledger;
        let share = budget.share();
        let held = held.load(Ordering::Acquire);
        let left = share.saturating_sub(held + reserved.load(Ordering::Acquire));
        let least = wish.least.min(wish.most);
        let wanted = wish.most.min(left).min((share / wish.slices.max(1)).max(least));
        let mut used = budget.used();
        loop {
            let granted = wanted.min(budget.capacity.saturating_sub(used));
            if granted < least || granted == 0 {
                break;
            }
            match budget.used.compare_exchange_weak(used, used + granted, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(self.reserved(granted)),
                Err(now) => used = now,
            }
        }
        let lent = least.min(share.max(SMALLEST_LOAN)).max(1);
        (held == 0 || held <= parked()).then(|| {
            budget.used.fetch_add(lent, Ordering::AcqRel);
            self.reserved(lent)
        })
    }

    fn reserved(&self, bytes: usize) -> Charge {
        self.ledger.reserved.fetch_add(bytes, Ordering::AcqRel);
        Charge { ledger: Arc::clone(&self.ledger), bytes, is_settled: false }
    }

    /// Whether the charge was made here.
    pub fn made(&self, charge: &Charge) -> bool {
        Arc::ptr_eq(&self.ledger, &charge.ledger)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.ledger.budget.accounts.fetch_sub(1, Ordering::AcqRel);
        (self.ledger.budget.freed)();
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = |bytes: &AtomicUsize| bytes.load(Ordering::Relaxed);
        let Ledger { reserved, held, .. } = &*self.ledger;
        f.debug_struct("Account").field("reserved", &load(reserved)).field("held", &load(held)).finish()
    }
}

/// Bytes of the budget, given back when dropped.
pub struct Charge {
    ledger: Arc<Ledger>,
    bytes: usize,
    is_settled: bool,
}

impl Charge {
    /// How many.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sets what was reserved to what came, into debt if need be.
    pub fn settle(&mut self, bytes: usize) {
        let Ledger { budget, reserved, held } = &*self.ledger;
        if self.is_settled {
            held.fetch_sub(self.bytes, Ordering::AcqRel);
        } else {
            reserved.fetch_sub(self.bytes, Ordering::AcqRel);
        }
        held.fetch_add(bytes, Ordering::AcqRel);
        let before = std::mem::replace(&mut self.bytes, bytes);
        self.is_settled = true;
        if bytes >= before {
            budget.used.fetch_add(bytes - before, Ordering::AcqRel);
        } else {
            budget.used.fetch_sub(before - bytes, Ordering::AcqRel);
            (budget.freed)();
        }
    }

    /// Charges more, such as what this inflated to, to the same account: it is there already, into debt if need be.
    pub fn and(&self, bytes: usize) -> Self {
        self.ledger.held.fetch_add(bytes, Ordering::AcqRel);
        self.ledger.budget.used.fetch_add(bytes, Ordering::AcqRel);
        Self { ledger: Arc::clone(&self.ledger), bytes, is_settled: true }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let Ledger { budget, reserved, held } = &*self.ledger;
            let part = if self.is_settled { held } else { reserved };
            part.fetch_sub(self.bytes, Ordering::AcqRel);
            budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
            (budget.freed)();
        }
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge").field("bytes", &self.bytes).field("is_settled", &self.is_settled).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(most: usize, slices: usize) -> Wish {
        Wish { most, least: 10, slices }
    }

    fn bytes(charge: &Option<Charge>) -> Option<usize> {
        charge.as_ref().map(Charge::bytes)
    }

    #[test]
    fn a_fetch_takes_its_slice_and_gives_back_what_did_not_come() {
        let budget = PrefetchBudget::new(200, || {});
        let (account, _other) = (budget.open(), budget.open());
        let mut parked = account.reserve(wish(80, 2), || 0).unwrap();
        assert_eq!(parked.bytes(), 50, "half of a share of two");
        let aside = account.reserve(wish(80, 4), || 0);
        assert_eq!((bytes(&aside), budget.used()), (Some(25), 75));
        parked.settle(5);
        assert_eq!((budget.used(), bytes(&account.reserve(wish(80, 1), || 0))), (30, Some(70)));
        drop((parked, aside));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn overshoot_is_debt_and_nothing_is_granted_before_it_is_paid() {
        let freed = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&freed);
        let budget = PrefetchBudget::new(100, move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let account = budget.open();
        let mut fetch = account.reserve(wish(100, 1), || 0).unwrap();
        fetch.settle(150);
        let inflated = fetch.and(30);
        assert_eq!(budget.used(), 180);
        drop(inflated);
        assert_eq!(bytes(&account.reserve(wish(10, 1), || 0)), None);
        drop(fetch);
        assert_eq!((budget.used(), freed.load(Ordering::Relaxed)), (0, 2));
        assert_eq!(bytes(&account.reserve(wish(10, 1), || 0)), Some(10));
    }

    #[test]
    fn what_one_leaves_unread_is_not_in_the_way_of_another() {
        let budget = PrefetchBudget::new(200, || {});
        let (slow, fast) = (budget.open(), budget.open());
        let mut unread = Vec::new();
        while let Some(mut charge) = slow.reserve(wish(40, 1), || 0) {
            charge.settle(charge.bytes());
            unread.push(charge);
        }
        assert_eq!(budget.used(), 100, "all of its share");
        let grants: Vec<_> = (0..3).map_while(|_| fast.reserve(wish(50, 1), || 0)).collect();
        assert_eq!(grants.iter().map(Charge::bytes).collect::<Vec<_>>(), [50, 50, 10], "all of its own, and a loan");
        drop(fast);
        assert_eq!(budget.share(), 200, "shares grow as accounts close");
    }

    #[test]
    fn whoever_holds_nothing_may_borrow_and_whoever_holds_something_may_not() {
        let budget = PrefetchBudget::new(100, || {});
        let (full, new) = (budget.open(), budget.open());
        let mut charge = full.reserve(wish(50, 1), || 0).unwrap();
        charge.settle(130);
        assert_eq!(bytes(&full.reserve(wish(50, 1), || 0)), None);
        let loan = new.reserve(wish(50, 1), || 0);
        assert_eq!((bytes(&loan), budget.used()), (Some(10), 140));
        assert_eq!(bytes(&full.reserve(wish(50, 1), || 130)), Some(10), "what nobody will read holds nobody up");
    }
}
