//! `cargo xtask lint`: everything that is judged without running our code. All steps run, even after one has failed.

use std::env;
use std::process::Command;
use std::time::Instant;

use crate::codegen;
use crate::host;
use crate::host::Outcome;
use crate::tidy;

/// Builds with fewer features than the default, in which a missing `cfg` would show.
const FEATURE_SETS: [&[&str]; 4] = [
    &["--package", "milena-protocol", "--no-default-features"],
    &["--package", "milena-protocol", "--no-default-features", "--features", "lz4"],
    &["--package", "milena-client", "--no-default-features"],
    &["--package", "milena", "--no-default-features"],
];

pub(crate) fn run() -> Outcome {
    let mut failed = Vec::new();
    let mut step = |name: &'static str, task: &mut dyn FnMut() -> Outcome| {
        eprintln!("lint: {name}");
        let began = Instant::now();
        if let Err(failure) = task() {
            eprintln!("lint: {name} failed: {failure}");
            failed.push(name);
        }
        eprintln!("lint: {name} took {:.1} s", began.elapsed().as_secs_f64());
    };
    step("format", &mut || host::run(host::cargo().args(["fmt", "--all", "--", "--check"])));
    step("tidy", &mut tidy::run);
    step("clippy", &mut clippy);
    step("other clients under load", &mut peers);
    step("documentation", &mut || {
        let mut cargo = host::cargo();
        host::run(cargo.env("RUSTDOCFLAGS", "-Dwarnings").args(["doc", "--workspace", "--no-deps", "--quiet"]))
    });
    step("generated messages", &mut || {
        if codegen::is_available() {
            return host::run(Command::new(env::current_exe()?).args(["codegen", "--check"]));
        }
        eprintln!("lint: NOT CHECKED: whether the generated messages are those of the schemas (no Maven)");
        Ok(())
    });
    step("licences, bans and advisories", &mut || {
        if host::works("cargo-deny", &["--version"]) {
            return host::run(host::cargo().args(["deny", "--workspace", "check"]));
        }
        eprintln!("lint: NOT CHECKED: deny.toml (cargo-deny isn't installed)");
        Ok(())
    });
    if failed.is_empty() { Ok(()) } else { Err(format!("lint failed: {}", failed.join(", ")).into()) }
}

const DENY: [&str; 3] = ["--", "-D", "warnings"];

/// The workspace of the peers: its format always, clippy where somebody waits anyway, since it builds librdkafka.
fn peers() -> Outcome {
    const MANIFEST: [&str; 2] = ["--manifest-path", "benches/peers/Cargo.toml"];
    host::run(host::cargo().arg("fmt").args(MANIFEST).args(["--all", "--", "--check"]))?;
    if !host::is_ci() {
        eprintln!("lint: NOT CHECKED: benches/peers by clippy (it builds librdkafka; CI=true does it)");
        return Ok(());
    }
    let mut cargo = host::cargo();
    cargo.args(["clippy", "--quiet", "--locked", "--workspace", "--all-targets"]).args(MANIFEST);
    host::run(cargo.arg("--target-dir").arg(host::root().join("benches/peers/target")).args(DENY))
}

fn clippy() -> Outcome {
    host::run(host::cargo().args(["clippy", "--quiet", "--workspace", "--all-targets"]).args(DENY))?;
    for set in FEATURE_SETS {
        host::run(host::cargo().args(["clippy", "--quiet"]).args(set).args(DENY))?;
    }
    Ok(())
}
