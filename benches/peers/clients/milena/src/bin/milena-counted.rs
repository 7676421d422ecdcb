//! milena under load, its allocations counted.
#![forbid(unsafe_code)]

#[global_allocator]
static COUNTER: &load::Counter = &load::INSTRUMENTED_SYSTEM;

fn main() -> std::process::ExitCode {
    load::main(&peer_milena::CLIENT, Some(COUNTER))
}
