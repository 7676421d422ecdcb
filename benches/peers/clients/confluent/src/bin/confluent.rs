//! confluent under load, measured.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    load::main(&peer_confluent::CLIENT, None)
}
