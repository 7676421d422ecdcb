//! The producer's machines: how records become batches, batches get their place in a partition's sequence, and
//! everyone who waits learns what became of them.
//!
//! In reading order: [`budget`] and [`buffers`] are the memory, [`partitioner`] chooses where a record goes,
//! [`open_batch`] takes it in, [`completion`] answers for it, [`compression_choice`] and [`compression_effort`] say how
//! its batch is compressed, [`partition_queue`] sends batches in order until each is settled, [`identity`] says who
//! sends them.

pub mod budget;
pub mod buffers;
pub mod completion;
pub mod compression_choice;
pub mod compression_effort;
pub mod failure;
pub mod identity;
pub mod open_batch;
pub mod partition_queue;
pub mod partitioner;
pub mod sequence;
