//! `cargo xtask tidy`: what ARCHITECTURE.md states as absences, as far as a program can see them. Looks at the
//! dependency graph and at the sources; compiles nothing.

mod dependencies;
mod source;
mod sources;
mod spawns;
mod words;

use crate::host::Outcome;

/// What was found, one line each.
#[derive(Default)]
struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Findings {
    fn error(&mut self, finding: impl Into<String>) {
        self.errors.push(finding.into());
    }

    fn warning(&mut self, finding: impl Into<String>) {
        self.warnings.push(finding.into());
    }
}

pub(crate) fn run() -> Outcome {
    let mut findings = Findings::default();
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(crate::host::root()).exec()?;
    dependencies::check(&metadata, &mut findings)?;
    sources::check(&metadata, &mut findings)?;

    for warning in &findings.warnings {
        eprintln!("tidy: warning: {warning}");
    }
    for error in &findings.errors {
        eprintln!("tidy: error: {error}");
    }
    match findings.errors.len() {
        0 => Ok(()),
        n_errors => Err(format!("tidy found {n_errors} error(s)").into()),
    }
}
