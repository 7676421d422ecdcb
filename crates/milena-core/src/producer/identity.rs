//! Who the producer is to the brokers: a producer id and an epoch, and when a new one of either is needed.
//!
//! An idempotent producer raises its epoch by itself (KIP-360); only when the epochs are used up, or before the first
//! batch, does it ask a broker. Which partition uses which epoch is the partition's business.

/// A producer id with its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProducerIdentity {
    /// Given out by a broker.
    pub id: i64,
    /// Raised whenever sequences must start anew.
    pub epoch: i16,
}

/// The identity of one producer.
#[derive(Debug, Default)]
pub struct Identity {
    current: Option<ProducerIdentity>,
    asked: bool,
}

impl Identity {
    /// None yet: the first [`Self::poll_init`] asks for one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The identity that batches get now, once there is one.
    pub fn current(&self) -> Option<ProducerIdentity> {
        self.current
    }

    /// Whether an InitProducerId is to be sent now; the caller answers with [`Self::initialized`] or
    /// [`Self::init_failed`].
    pub fn poll_init(&mut self) -> bool {
        !std::mem::replace(&mut self.asked, self.current.is_none()) && self.current.is_none()
    }

    /// A broker gave an identity.
    pub fn initialized(&mut self, identity: ProducerIdentity) {
        self.current = Some(identity);
        self.asked = false;
    }

    /// The broker could not be asked: it is to be asked again.
    pub fn init_failed(&mut self) {
        self.asked = false;
    }

    /// A partition needs sequences that start anew after `used`. Whoever asks first raises the epoch; those who ask
    /// after it take what is current by then.
    pub fn bump(&mut self, used: ProducerIdentity) {
        if self.current != Some(used) {
            return;
        }
        // The last epoch is never used, as in Kafka: a broker that fences a producer raises its epoch once more.
        self.current = match used.epoch.checked_add(1) {
            Some(epoch) if epoch < i16::MAX => Some(ProducerIdentity { epoch, ..used }),
            _ => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_asked_for_once_at_a_time() {
        let mut identity = Identity::new();
        assert!(identity.poll_init());
        assert!(!identity.poll_init(), "asked already");
        identity.init_failed();
        assert!(identity.poll_init());
        identity.initialized(ProducerIdentity { id: 7, epoch: 0 });
        assert!(!identity.poll_init());
        assert_eq!(identity.current(), Some(ProducerIdentity { id: 7, epoch: 0 }));
    }

    #[test]
    fn epoch_rises_once_for_all_who_used_the_same() {
        let mut identity = Identity::new();
        let first = ProducerIdentity { id: 7, epoch: 0 };
        identity.initialized(first);
        identity.bump(first);
        identity.bump(first);
        assert_eq!(identity.current(), Some(ProducerIdentity { id: 7, epoch: 1 }));
    }

    #[test]
    fn used_up_epochs_need_a_new_id() {
        let mut identity = Identity::new();
        let last = ProducerIdentity { id: 7, epoch: i16::MAX - 1 };
        identity.initialized(last);
        identity.bump(last);
        assert_eq!(identity.current(), None);
        assert!(identity.poll_init());
    }
}
