//! The machine we run on: where the workspace, its target folder and the cache lie, and how a program is run so that
//! its failure names itself. Knows nothing of Kafka or of any single command.

use std::env;
use std::ffi::OsStr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

/// What a task gives back: nothing, or a sentence saying what failed and what to do.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask lies in the workspace's root").to_path_buf()
}

/// Where cargo builds, and where clusters keep their data.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// What is fetched once and kept between checkouts: `$MILENA_CACHE`, else the user's cache folder.
pub(crate) fn cache() -> PathBuf {
    if let Some(folder) = env::var_os("MILENA_CACHE") {
        return PathBuf::from(folder);
    }
    if let Some(folder) = env::var_os("XDG_CACHE_HOME") {
        return PathBuf::from(folder).join("milena");
    }
    match env::var_os("HOME") {
        Some(home) => PathBuf::from(home).join(".cache/milena"),
        None => target().join("cache"),
    }
}

/// Whether somebody's continuous integration runs us: what can't be tested is a failure there.
pub(crate) fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true")
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs `command` with our own stdout and stderr; anything but exit 0 is an error that quotes it.
pub(crate) fn run(command: &mut Command) -> Outcome {
    let status = command.status().map_err(|error| format!("can't start {}: {error}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{status}: {}", shown(command)).into()) }
}

/// Runs `command` and gives back its stdout; on failure the error carries the end of its output.
pub(crate) fn capture(command: &mut Command) -> Outcome<String> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("can't start {}: {error}", shown(command)))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(format!("{}: {}\n{}", output.status, shown(command), last_lines(&said, 20)).into())
}

/// Whether `program arguments..` can be run at all and succeeds, its output unseen.
pub(crate) fn works(program: impl AsRef<OsStr>, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The last `n_lines` of `text`.
pub(crate) fn last_lines(text: &str, n_lines: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(n_lines)..].join("\n")
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}
