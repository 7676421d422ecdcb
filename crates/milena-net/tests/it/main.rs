//! Connections and pool against scripted peers.

mod cancel;
mod connection;
mod faults;
mod peer;
mod pool;
mod tcp;
mod wire;
