//! The client's one source of randomness, seeded, so that a simulation repeats itself.

use std::fmt;
use std::sync::{Arc, Mutex};

/// A shared random source. Clones draw from the same sequence.
#[derive(Clone)]
pub(crate) struct Chance {
    rng: Arc<Mutex<fastrand::Rng>>,
}

impl Chance {
    /// `None` seeds it from the system.
    pub(crate) fn new(seed: Option<u64>) -> Self {
        let rng = seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Self { rng: Arc::new(Mutex::new(rng)) }
    }

    /// Draws. The lock is held meanwhile: draw and leave.
    pub(crate) fn with<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.rng.lock().expect("no code that holds this lock can panic"))
    }

    /// A random source of the caller's own, for tasks and machines that draw often.
    pub(crate) fn fork(&self) -> fastrand::Rng {
        self.with(fastrand::Rng::fork)
    }
}

impl fmt::Debug for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chance")
    }
}
