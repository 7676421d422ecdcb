//! The states of a member of a classic group, and which may follow which. Data lives in `classic.rs`.

/// Where a member stands towards its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberState {
    /// Not a member and about to become one: the coordinator is looked up, then asked to let us join.
    Unjoined,
    /// JoinGroup is under way; the coordinator answers when all members have joined.
    PreparingRebalance,
    /// JoinGroup is answered; SyncGroup is under way, or the leader waits for metadata to assign by.
    CompletingRebalance,
    /// The assignment is known and held.
    Stable,
    /// The application is asked to give up partitions; a join follows when it has, or when its time is up.
    Revoking,
    /// The application did not poll within `max.poll.interval`: out of the group until it polls again.
    Stale,
    /// LeaveGroup is under way.
    Leaving,
    /// Closed: nothing follows.
    Left,
    /// The group can't be joined, or another instance took our place: nothing follows but closing.
    Fatal,
}

impl MemberState {
    /// Every state, in the order above.
    pub const ALL: [Self; 9] = [
        Self::Unjoined,
        Self::PreparingRebalance,
        Self::CompletingRebalance,
        Self::Stable,
        Self::Revoking,
        Self::Stale,
        Self::Leaving,
        Self::Left,
        Self::Fatal,
    ];

    /// Whether `next` may follow this state.
    pub const fn may_become(self, next: Self) -> bool {
        use MemberState::*;
        match next {
            // Lost membership, a rebalance that began anew, partitions given up, or a poll after a long silence.
            Unjoined => matches!(self, PreparingRebalance | CompletingRebalance | Stable | Revoking | Stale),
            PreparingRebalance => matches!(self, Unjoined),
            CompletingRebalance => matches!(self, PreparingRebalance),
            Stable => matches!(self, CompletingRebalance),
            // Before a join (eager: all; cooperative: topics no longer wanted), or after a sync (KIP-429).
            Revoking => matches!(self, Stable | CompletingRebalance),
            Stale => matches!(self, Unjoined | PreparingRebalance | CompletingRebalance | Stable | Revoking),
            Leaving => matches!(self, Unjoined | PreparingRebalance | CompletingRebalance | Stable | Revoking | Stale),
            Left => matches!(self, Leaving | Fatal | Unjoined | Stale),
            Fatal => !matches!(self, Left | Fatal),
        }
    }

    /// Whether heartbeats keep the membership alive in this state. While JoinGroup is under way the coordinator waits
    /// for us by itself.
    pub(super) const fn heartbeats(self) -> bool {
        matches!(self, Self::CompletingRebalance | Self::Stable | Self::Revoking)
    }

    /// Whether a commit may be on its way: the coordinator takes those of the current generation until the next one
    /// starts. Not between Join and Sync, where it refuses them all.
    pub const fn may_commit(self) -> bool {
        matches!(self, Self::Unjoined | Self::PreparingRebalance | Self::Stable | Self::Revoking)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change of the protocol shows here as a diff.
    const TABLE: &str = "\
Unjoined            -> PreparingRebalance Stale Leaving Left Fatal
PreparingRebalance  -> Unjoined CompletingRebalance Stale Leaving Fatal
CompletingRebalance -> Unjoined Stable Revoking Stale Leaving Fatal
Stable              -> Unjoined Revoking Stale Leaving Fatal
Revoking            -> Unjoined Stale Leaving Fatal
Stale               -> Unjoined Leaving Left Fatal
Leaving             -> Left Fatal
Left                ->
Fatal               -> Left
";

    #[test]
    fn transitions_are_as_written_down() {
        let mut table = String::new();
        for from in MemberState::ALL {
            let next: Vec<String> =
                MemberState::ALL.iter().filter(|to| from.may_become(**to)).map(|to| format!(" {to:?}")).collect();
            table += &format!("{:<19} ->{}\n", format!("{from:?}"), next.concat());
        }
        assert_eq!(table, TABLE);
    }
}
