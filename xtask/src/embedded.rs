//! `milena broker` on free ports, for as long as the value lives.

use std::io::BufRead as _;
use std::io::BufReader;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use crate::host;
use crate::host::Outcome;

/// How it is built.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    /// Quickly.
    Debug,
    /// For measuring.
    Release,
}

pub(crate) struct EmbeddedBroker {
    process: Child,
    bootstrap: String,
}

impl EmbeddedBroker {
    /// Builds and starts it, with more arguments for `milena broker`.
    pub(crate) fn start(profile: Profile, arguments: &[String]) -> Outcome<Self> {
        let mut build = host::cargo();
        build.args(["build", "--quiet", "--package", "milena-cli"]);
        let program = match profile {
            Profile::Debug => "debug/milena",
            Profile::Release => {
                build.arg("--release");
                "release/milena"
            }
        };
        host::run(&mut build)?;
        let mut process = Command::new(host::target().join(program))
            .args(["broker", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = process.stdout.take().ok_or("the broker's stdout is piped")?;
        let mut broker = Self { process, bootstrap: String::new() };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let bootstrap = line.trim().strip_prefix("listening on ").ok_or("the broker didn't say where it listens")?;
        broker.bootstrap = bootstrap.to_owned();
        Ok(broker)
    }

    /// Where its nodes listen.
    pub(crate) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        // It keeps everything in memory: there is nothing to save.
        let ended = self.process.kill().and_then(|()| self.process.wait());
        if let Err(error) = ended {
            eprintln!("xtask: the broker may still run: {error}");
        }
    }
}
