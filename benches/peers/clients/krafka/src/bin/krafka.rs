//! krafka under load, measured.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    load::main(&peer_krafka::CLIENT, None)
}
