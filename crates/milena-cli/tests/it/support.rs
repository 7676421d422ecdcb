//! Runs the real binary, and ends it: every wait is bounded, nothing sleeps.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use milena_broker::Broker;
use serde_json::Value;

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// What a finished run left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// It did what was asked, and quietly.
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{}", self.stdout);
        self.stdout
    }

    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.ok()).expect("one JSON value on stdout")
    }

    /// One JSON value a line.
    pub(crate) fn records(self) -> Vec<Value> {
        records(&self.ok())
    }

    /// It failed with this exit code, and stderr says all of this.
    pub(crate) fn fails(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for part in says {
            assert!(self.stderr.contains(part), "`{part}` is missing from {:?}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

pub(crate) fn records(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str(line).expect("a JSON record a line")).collect()
}

/// `milena` with these arguments, all its ends piped, and nothing from the environment of the tests.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_milena"));
    command.args(args).env_remove("KAFKA_BOOTSTRAP_SERVERS").env_remove("MILENA_LOG");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end, with nothing on stdin.
pub(crate) fn milena(args: &[&str]) -> Ended {
    with_stdin(args, b"")
}

pub(crate) fn with_stdin(args: &[&str], stdin: &[u8]) -> Ended {
    let mut child = command(args).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let stdin = stdin.to_vec();
    // It may end before it has read everything, which is no failure of the test.
    std::thread::spawn(move || {
        let _ = input.write_all(&stdin);
    });
    end(child)
}

/// Waits for a process to end by itself.
pub(crate) fn end(child: Child) -> Ended {
    let pid = child.id();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = tell.send(child.wait_with_output());
    });
    let Ok(output) = told.recv_timeout(LIMIT) else {
        signal(pid, "KILL");
        panic!("milena did not end within {LIMIT:?}");
    };
    let output = output.unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(status.success(), "no process {pid} to signal");
}

/// Runs it as a person sees it: stderr is a terminal. What was shown there is [`Ended::stderr`].
#[cfg(unix)]
pub(crate) fn on_a_terminal(args: &[&str]) -> Ended {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let terminal = std::fs::OpenOptions::new().read(true).write(true).open(name).unwrap();
    // A temporary: the command keeps its own copy of the terminal, and reading ends when the last is closed.
    let child = command(args).env("TERM", "xterm").stdin(Stdio::null()).stderr(terminal).spawn().unwrap();
    let screen = std::thread::spawn(move || {
        let (mut screen, mut shown) = (std::fs::File::from(master), Vec::new());
        // Linux ends it with EIO rather than with an end.
        let _ = screen.read_to_end(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    });
    let mut ended = end(child);
    ended.stderr = screen.join().unwrap();
    ended
}

/// Looks until it is so; each look runs a process, which takes its time.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
    }
}

/// A process that goes on until it is told to end; killed if it still runs when it is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Option<Child>,
    lines: mpsc::Receiver<String>,
}

impl Running {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::read(args, usize::MAX)
    }

    /// Its stdout is closed after so many lines, as by `head`.
    fn read(args: &[&str], lines: usize) -> Self {
        let mut child = command(args).stdin(Stdio::null()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().take(lines) {
                if line.is_ok_and(|line| tell.send(line).is_ok()) {
                    continue;
                }
                return;
            }
        });
        Self { child: Some(child), lines: told }
    }

    /// `milena … | head -1`: its first line, and how it ended by itself.
    pub(crate) fn head(args: &[&str]) -> (String, Ended) {
        let mut running = Self::read(args, 1);
        let line = running.line();
        (line, end(running.child.take().unwrap()))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// The next line of stdout.
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("another line on stdout")
    }

    /// The next line, if it comes that soon.
    pub(crate) fn line_within(&self, limit: Duration) -> Option<String> {
        self.lines.recv_timeout(limit).ok()
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends it by a signal. Its stdout is what [`Self::line`] has not taken yet.
    pub(crate) fn end_by(mut self, name: &str) -> Ended {
        signal(self.pid(), name);
        let mut ended = end(self.child.take().unwrap());
        ended.stdout = self.lines.iter().flat_map(|line| [line, "\n".to_owned()]).collect();
        ended
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let mut stderr = String::new();
            if std::thread::panicking() && child.stderr.take().unwrap().read_to_string(&mut stderr).is_ok() {
                eprintln!("stderr of process {}: {stderr}", child.id());
            }
            let _ = child.wait();
        }
    }
}

/// `milena broker` in a process of its own.
#[derive(Debug)]
pub(crate) struct Cluster {
    process: Running,
    pub(crate) address: String,
}

impl Cluster {
    pub(crate) fn start(args: &[&str]) -> Self {
        let process = Running::start(&[&["broker", "--listen", "127.0.0.1:0"], args].concat());
        let line = process.line();
        let address = line.strip_prefix("listening on ").expect("the line that says where it listens").to_owned();
        Self { process, address }
    }

    pub(crate) fn stop(self, signal: &str) -> Ended {
        self.process.end_by(signal)
    }

    /// Runs `milena` against it.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        self.run_with(args, "")
    }

    pub(crate) fn run_with(&self, args: &[&str], stdin: &str) -> Ended {
        with_stdin(&[args, &["-b", &self.address]].concat(), stdin.as_bytes())
    }

    pub(crate) fn head(&self, args: &[&str]) -> (String, Ended) {
        Running::head(&[args, &["-b", &self.address]].concat())
    }

    pub(crate) fn follow(&self, args: &[&str]) -> Running {
        Running::start(&[args, &["-b", &self.address]].concat())
    }

    /// Values to partition 0, in order.
    pub(crate) fn fill(&self, topic: &str, values: impl IntoIterator<Item = u32>) {
        let lines: String =
            values.into_iter().map(|value| format!("{{\"partition\":0,\"value\":\"{value}\"}}\n")).collect();
        assert_eq!(self.run_with(&["produce", "-t", topic], &lines).ok(), "");
    }

    /// All values of a topic, partition by partition if there is but one.
    pub(crate) fn values(&self, args: &[&str]) -> Vec<String> {
        let printed = self.run(&[&["consume", "--exit-at-end", "--format", "value"], args].concat()).ok();
        printed.lines().map(str::to_owned).collect()
    }

    /// What `group` has committed for partition 0 of its only topic.
    pub(crate) fn committed(&self, group: &str) -> Value {
        let described = self.run(&["groups", "describe", group, "--json"]).json();
        described["partitions"][0]["committed"].clone()
    }
}

/// A broker in the process of the test, for what no command can do to one.
pub(crate) async fn embedded(topics: &[(&str, i32)]) -> (Broker, String) {
    let builder = topics.iter().fold(Broker::builder(), |builder, (name, count)| builder.topic(*name, *count));
    let broker = builder.build();
    let address = broker.listen("127.0.0.1:0").await.unwrap()[0].to_string();
    (broker, address)
}

/// Runs `milena` against it, on a thread where waiting does no harm.
pub(crate) async fn run_at(address: &str, args: &[&str], stdin: &'static str) -> Ended {
    let args: Vec<String> = args.iter().chain(&["-b", address]).map(|arg| (*arg).to_owned()).collect();
    let run = move || with_stdin(&args.iter().map(String::as_str).collect::<Vec<_>>(), stdin.as_bytes());
    tokio::task::spawn_blocking(run).await.unwrap()
}
