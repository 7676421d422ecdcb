//! milena under load, measured.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    load::main(&peer_milena::CLIENT, None)
}
