//! The group machines: membership by the classic protocol, assignors, and the lane that orders commits.

pub mod assignor;
mod blobs;
pub mod classic;
pub mod commit_lane;
mod exchange;
mod java_order;
mod state;
#[cfg(test)]
mod tests;
