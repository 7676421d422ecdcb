//! Topics as an event declares them: a checked name, and how many partitions and replicas to create.
//!
//! Knows nothing of a cluster; comparing a declaration with what exists is `topics/`'s work.

use thiserror::Error;

/// Kafka's limit on the length of a topic name.
const LONGEST_NAME: usize = 249;

/// What an event says about the topic that carries it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TopicDeclaration {
    name: String,
    partitions: Option<i32>,
    replication: Option<i16>,
}

impl TopicDeclaration {
    /// Declares a topic with the broker's default number of partitions and replicas.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), partitions: None, replication: None }
    }

    /// Creates the topic with `count` partitions.
    #[must_use]
    pub fn partitions(mut self, count: i32) -> Self {
        self.partitions = Some(count);
        self
    }

    /// Creates the topic with `count` replicas of each partition.
    #[must_use]
    pub fn replication(mut self, count: i16) -> Self {
        self.replication = Some(count);
        self
    }

    /// The topic's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Partitions to create; `None` leaves it to the broker.
    pub fn partition_count(&self) -> Option<i32> {
        self.partitions
    }

    /// Replicas to create; `None` leaves it to the broker.
    pub fn replication_factor(&self) -> Option<i16> {
        self.replication
    }

    pub(crate) fn check(&self) -> Result<(), InvalidTopic> {
        check_topic_name(&self.name)?;
        if self.partitions.is_some_and(|count| count < 1) {
            return Err(InvalidTopic::Partitions { name: self.name.clone() });
        }
        if self.replication.is_some_and(|count| count < 1) {
            return Err(InvalidTopic::Replication { name: self.name.clone() });
        }
        Ok(())
    }
}

/// What the bus does about a topic that is missing, or differs from its declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TopicStrategy {
    /// Create it as declared when it is missing; never touch one that exists, but for the `max.message.bytes` of a
    /// dead-letter topic that has none of its own: it is raised to what a dead letter may need.
    #[default]
    Create,
    /// Fail when it is missing or has another number of partitions than declared.
    Validate,
    /// Do nothing: whoever publishes or subscribes waits until somebody else creates it.
    Ignore,
}

/// A topic that Kafka would not accept.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidTopic {
    /// The name is empty.
    #[error("a topic name is not empty")]
    Empty,
    /// The name is `.` or `..`.
    #[error("a topic can't be named {name:?}")]
    Dots {
        /// The name.
        name: String,
    },
    /// The name is longer than 249 characters.
    #[error("topic name {name:?} has {length} characters; Kafka allows 249")]
    TooLong {
        /// The name, cut off.
        name: String,
        /// Its length.
        length: usize,
    },
    /// The name has a character other than `A-Z a-z 0-9 . _ -`.
    #[error("topic name {name:?} contains {character:?}; use A-Z a-z 0-9 . _ -")]
    Character {
        /// The name.
        name: String,
        /// The first character that is not allowed.
        character: char,
    },
    /// Fewer than one partition is declared.
    #[error("topic {name} must be declared with at least one partition")]
    Partitions {
        /// The name.
        name: String,
    },
    /// Fewer than one replica is declared.
    #[error("topic {name} must be declared with at least one replica")]
    Replication {
        /// The name.
        name: String,
    },
}

/// Checks a name by Kafka's exact rule.
///
/// Brokers and clients have been seen to take a send to an illegal name and deliver nothing, so every name is checked
/// where it enters the bus.
pub(crate) fn check_topic_name(name: &str) -> Result<(), InvalidTopic> {
    if name.is_empty() {
        return Err(InvalidTopic::Empty);
    }
    if name == "." || name == ".." {
        return Err(InvalidTopic::Dots { name: name.to_owned() });
    }
    if let Some(character) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-')) {
        return Err(InvalidTopic::Character { name: name.chars().take(LONGEST_NAME).collect(), character });
    }
    if name.len() > LONGEST_NAME {
        return Err(InvalidTopic::TooLong { name: name[..32].to_owned(), length: name.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_by_kafkas_rule() {
        for legal in ["orders", "a", "A.b_c-9", &"x".repeat(249)] {
            assert_eq!(check_topic_name(legal), Ok(()));
        }
        assert_eq!(check_topic_name(""), Err(InvalidTopic::Empty));
        assert!(matches!(check_topic_name("."), Err(InvalidTopic::Dots { .. })));
        assert!(matches!(check_topic_name(".."), Err(InvalidTopic::Dots { .. })));
        assert!(matches!(check_topic_name(&"x".repeat(250)), Err(InvalidTopic::TooLong { length: 250, .. })));
        for (illegal, at) in [("a b", ' '), ("bücher", 'ü'), ("订单", '订'), ("a/b", '/'), ("a\0", '\0')] {
            assert!(
                matches!(check_topic_name(illegal), Err(InvalidTopic::Character { character, .. }) if character == at)
            );
        }
    }

    #[test]
    fn a_declaration_without_partitions_or_replicas_is_refused() {
        assert_eq!(TopicDeclaration::new("orders").partitions(3).replication(1).check(), Ok(()));
        assert!(matches!(TopicDeclaration::new("orders").partitions(0).check(), Err(InvalidTopic::Partitions { .. })));
        assert!(matches!(
            TopicDeclaration::new("orders").replication(-1).check(),
            Err(InvalidTopic::Replication { .. })
        ));
    }
}
