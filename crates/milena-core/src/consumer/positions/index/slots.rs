//! What is held, by number. In pieces that never move: one list that doubles as it grows would leave up to half of itself
//! empty, and a box for each would cost a pointer and the allocator's own word more.

use super::{Held, Slot};

/// Partitions in a piece: few, since most consumers hold few.
const PIECE: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Slots {
    #[expect(
        clippy::vec_box,
        reason = "pieces by value would move, and leave half their room empty, as the list grows"
    )]
    pieces: Vec<Box<[Option<Held>; PIECE]>>,
    used: usize,
    free: Vec<Slot>,
}

impl Slots {
    /// Enters it under a number that nothing goes by.
    pub(super) fn put(&mut self, held: Held) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.used += 1;
            (self.used - 1) as Slot
        });
        if self.used > self.pieces.len() * PIECE {
            self.pieces.push(Box::default());
        }
        self.pieces[slot as usize / PIECE][slot as usize % PIECE] = Some(held);
        slot
    }

    pub(super) fn take(&mut self, slot: Slot) -> Option<Held> {
        let held = self.pieces.get_mut(slot as usize / PIECE)?[slot as usize % PIECE].take()?;
        self.free.push(slot);
        Some(held)
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Held> {
        self.pieces.get(slot as usize / PIECE)?[slot as usize % PIECE].as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Held> {
        self.pieces.get_mut(slot as usize / PIECE)?[slot as usize % PIECE].as_mut()
    }
}
