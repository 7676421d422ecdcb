//! Kafka's own Java tools, to stand on the other side of our clients and to judge our batches. Each call runs one tool
//! to its end; what the tool prints is parsed, nothing else is kept.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::BufReader;
use tokio::io::Lines;
use tokio::process::Child;
use tokio::process::ChildStdout;
use tokio::process::Command;
use tokio::time::timeout;

use crate::kafka::Outcome;

/// Longer than any tool takes on a loaded machine.
const TIME_LIMIT: Duration = Duration::from_secs(90);

/// The tools on a class path.
#[derive(Clone, Debug)]
pub struct Tools {
    class_path: String,
}

/// A record as the console consumer prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleRecord {
    /// Where it lies.
    pub partition: i32,
    /// Where it lies in its partition.
    pub offset: i64,
    /// Milliseconds.
    pub timestamp: i64,
    /// `name:value,…`, or `NO_HEADERS`.
    pub headers: String,
    /// The key, `null` if there is none.
    pub key: String,
    /// The value, `null` if there is none.
    pub value: String,
}

/// One line of VerifiableProducer or VerifiableConsumer.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    /// What happened: `producer_send_success`, `record_data`, `partitions_assigned`, …
    pub name: String,
    /// The record's key.
    #[serde(default)]
    pub key: Option<String>,
    /// The record's value.
    #[serde(default)]
    pub value: Option<String>,
    /// Where it lies.
    #[serde(default)]
    pub partition: Option<i32>,
    /// Where it lies in its partition.
    #[serde(default)]
    pub offset: Option<i64>,
    /// The partitions that were assigned or revoked.
    #[serde(default)]
    pub partitions: Vec<serde_json::Value>,
    /// What went wrong.
    #[serde(default)]
    pub message: Option<String>,
}

/// A batch as DumpLogSegments judges it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpedBatch {
    /// The line about the batch, in the tool's words.
    pub line: String,
    /// Its records' lines.
    pub records: Vec<String>,
}

impl DumpedBatch {
    /// The value of `field` in the batch's line, such as `compresscodec` or `baseSequence`.
    #[must_use]
    pub fn field(&self, field: &str) -> Option<&str> {
        let label = format!("{field}: ");
        let (_, rest) = self.line.split_once(&label)?;
        rest.split(' ').next()
    }

    /// Whether Kafka holds the batch to be intact.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.field("isvalid") == Some("true")
    }
}

impl Tools {
    /// The tools on the class path in `MILENA_KAFKA_CP`.
    ///
    /// # Errors
    /// The variable isn't set: the test was run by hand instead of by `cargo xtask test`.
    pub fn from_env() -> Outcome<Self> {
        match env::var("MILENA_KAFKA_CP") {
            Ok(class_path) => Ok(Self { class_path }),
            Err(_) => Err("MILENA_KAFKA_CP isn't set: run `cargo xtask test`, or set it to what \
                           `cargo xtask kafka tools-class-path` prints"
                .into()),
        }
    }

    /// A command that runs `class`, with small memory and quick to start.
    #[must_use]
    pub fn command(&self, class: &str) -> Command {
        let java = env::var_os("JAVA_HOME")
            .map_or_else(|| "java".into(), |home| Path::new(&home).join("bin/java").into_os_string());
        let mut command = Command::new(java);
        command.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", &self.class_path, class]);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn output(command: &mut Command, input: &[u8]) -> Outcome<String> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().ok_or("the tool's stdin is piped")?;
        let run = async {
            let feed = async {
                let fed = stdin.write_all(input).await;
                drop(stdin);
                fed
            };
            let (fed, output) = tokio::join!(feed, child.wait_with_output());
            let output = output?;
            // A tool that fails at once closes its input early; its own words say more than the broken pipe.
            if output.status.success() {
                fed?;
            }
            Ok::<_, std::io::Error>(output)
        };
        let output = timeout(TIME_LIMIT, run).await.map_err(|_| "the tool doesn't end within 90 s")??;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(stdout);
        }
        Err(format!("{}\n{stdout}{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// What the tool says.
    pub async fn create_topic(&self, bootstrap: &str, topic: &str, n_partitions: u32, n_replicas: u16) -> Outcome {
        let mut command = self.command("org.apache.kafka.tools.TopicCommand");
        command.args(["--bootstrap-server", bootstrap, "--create", "--topic", topic]);
        command.args(["--partitions", &n_partitions.to_string(), "--replication-factor", &n_replicas.to_string()]);
        Self::output(&mut command, b"").await.map(drop)
    }

    /// Produces `records` (key and value, free of tabs and newlines) with the console producer.
    ///
    /// # Errors
    /// What the tool says.
    pub async fn produce(
        &self,
        bootstrap: &str,
        topic: &str,
        compression: &str,
        records: &[(String, String)],
    ) -> Outcome {
        let mut input = String::new();
        for (key, value) in records {
            input.push_str(key);
            input.push('\t');
            input.push_str(value);
            input.push('\n');
        }
        let mut command = self.command("org.apache.kafka.tools.ConsoleProducer");
        command.args(["--bootstrap-server", bootstrap, "--topic", topic, "--reader-property", "parse.key=true"]);
        command.args(["--command-property", &format!("compression.type={compression}")]);
        Self::output(&mut command, input.as_bytes()).await.map(drop)
    }

    /// Reads `n_records` from the topic's beginning with the console consumer, in the order it prints them.
    ///
    /// # Errors
    /// What the tool says, or that fewer records came within 20 s.
    pub async fn consume(&self, bootstrap: &str, topic: &str, n_records: usize) -> Outcome<Vec<ConsoleRecord>> {
        let mut command = self.command("org.apache.kafka.tools.consumer.ConsoleConsumer");
        command.args(["--bootstrap-server", bootstrap, "--topic", topic, "--from-beginning"]);
        command.args(["--max-messages", &n_records.to_string(), "--timeout-ms", "20000"]);
        for property in ["timestamp", "partition", "offset", "headers", "key"] {
            command.args(["--formatter-property", &format!("print.{property}=true")]);
        }
        let text = Self::output(&mut command, b"").await?;
        let records: Vec<ConsoleRecord> = text.lines().filter_map(ConsoleRecord::parse).collect();
        if records.len() == n_records {
            return Ok(records);
        }
        Err(format!("the console consumer printed {} of {n_records} records", records.len()).into())
    }

    /// Produces the values `0`, `1`, … below `n_records` with VerifiableProducer; gives back its acknowledgements.
    ///
    /// # Errors
    /// What the tool says.
    pub async fn verifiable_produce(&self, bootstrap: &str, topic: &str, n_records: usize) -> Outcome<Vec<Event>> {
        let mut command = self.command("org.apache.kafka.tools.VerifiableProducer");
        command.args(["--bootstrap-server", bootstrap, "--topic", topic, "--max-messages", &n_records.to_string()]);
        let text = Self::output(&mut command, b"").await?;
        let events = text.lines().map(serde_json::from_str).collect::<Result<Vec<Event>, _>>()?;
        Ok(events.into_iter().filter(|event| event.name == "producer_send_success").collect())
    }

    /// Copies what one partition holds into a topic with TransactionalMessageCopier, in transactions of ten records of which
    /// it aborts one in three by chance, to copy their records again.
    ///
    /// # Errors
    /// What the tool says.
    pub async fn copy_in_transactions(&self, bootstrap: &str, from: (&str, i32), to: &str, group: &str) -> Outcome {
        let mut command = self.command("org.apache.kafka.tools.TransactionalMessageCopier");
        command.args(["--broker-list", bootstrap, "--input-topic", from.0, "--input-partition", &from.1.to_string()]);
        command.args(["--output-topic", to, "--consumer-group", group, "--transactional-id", group]);
        command.args(["--transaction-size", "10", "--enable-random-aborts", "--use-group-metadata"]);
        Self::output(&mut command, b"").await.map(drop)
    }

    /// Joins `group` as a VerifiableConsumer that reads from the beginning, in the classic protocol with `assignor` (a
    /// class name).
    ///
    /// # Errors
    /// Java can't be started.
    pub fn join(&self, bootstrap: &str, topic: &str, group: &str, assignor: &str) -> Outcome<Member> {
        let mut command = self.command("org.apache.kafka.tools.VerifiableConsumer");
        command.args(["--bootstrap-server", bootstrap, "--topic", topic, "--group-id", group, "--verbose"]);
        command.args(["--reset-policy", "earliest", "--assignment-strategy", assignor, "--session-timeout", "6000"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let stdout = child.stdout.take().ok_or("the tool's stdout is piped")?;
        Ok(Member { child, lines: BufReader::new(stdout).lines() })
    }

    /// What Kafka makes of `batches`, laid out as a segment of a log: every record decoded by its own code.
    ///
    /// # Errors
    /// What the tool says; it refuses a batch that it can't decode.
    pub async fn dump_log(&self, batches: &[u8]) -> Outcome<Vec<DumpedBatch>> {
        let folder = tempfile::tempdir()?;
        let segment = folder.path().join("00000000000000000000.log");
        fs::write(&segment, batches)?;
        let mut command = self.command("org.apache.kafka.tools.DumpLogSegments");
        command.args(["--deep-iteration", "--print-data-log", "--files"]).arg(&segment);
        let text = Self::output(&mut command, b"").await?;
        let mut dumped = Vec::<DumpedBatch>::new();
        for line in text.lines() {
            if line.starts_with("baseOffset: ") {
                dumped.push(DumpedBatch { line: line.into(), records: Vec::new() });
            } else if let (Some(record), Some(batch)) = (line.strip_prefix("| "), dumped.last_mut()) {
                batch.records.push(record.into());
            } else if line.starts_with("Found ") {
                return Err(line.into());
            }
        }
        Ok(dumped)
    }
}

impl ConsoleRecord {
    /// `CreateTime:T⇥Partition:P⇥Offset:O⇥headers⇥key⇥value`; anything else isn't a record.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(6, '\t');
        let timestamp = fields.next()?.split_once("Time:")?.1.parse().ok()?;
        let partition = fields.next()?.strip_prefix("Partition:")?.parse().ok()?;
        let offset = fields.next()?.strip_prefix("Offset:")?.parse().ok()?;
        let (headers, key, value) = (fields.next()?.into(), fields.next()?.into(), fields.next()?.into());
        Some(Self { partition, offset, timestamp, headers, key, value })
    }
}

/// A VerifiableConsumer that runs beside ours. Dropping it kills it, which the group notices when its session ends.
#[derive(Debug)]
pub struct Member {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Member {
    /// The next thing it did.
    ///
    /// # Errors
    /// It ended, or said nothing for 90 s.
    pub async fn next(&mut self) -> Outcome<Event> {
        let line = timeout(TIME_LIMIT, self.lines.next_line()).await.map_err(|_| "the Java consumer is silent")??;
        Ok(serde_json::from_str(&line.ok_or("the Java consumer ended")?)?)
    }

    /// Waits until it did `name`.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn wait_for(&mut self, name: &str) -> Outcome<Event> {
        loop {
            let event = self.next().await?;
            if event.name == name {
                return Ok(event);
            }
        }
    }

    /// Lets it leave the group in order; gives back what it did since the last event read.
    ///
    /// # Errors
    /// It doesn't end in time.
    pub async fn leave(mut self) -> Outcome<Vec<Event>> {
        if let Some(pid) = self.child.id() {
            // The shell's own `kill`: SIGTERM is how this tool is told to stop, and std sends SIGKILL only.
            Command::new("sh").args(["-c", "kill -s TERM \"$0\"", &pid.to_string()]).status().await?;
        }
        let mut events = Vec::new();
        while let Some(line) =
            timeout(TIME_LIMIT, self.lines.next_line()).await.map_err(|_| "the Java consumer doesn't end")??
        {
            events.push(serde_json::from_str(&line)?);
        }
        timeout(TIME_LIMIT, self.child.wait()).await.map_err(|_| "the Java consumer doesn't end")??;
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::ConsoleRecord;
    use super::DumpedBatch;

    #[test]
    fn console_lines_are_parsed_and_chatter_is_skipped() {
        let record = ConsoleRecord::parse("CreateTime:17\tPartition:1\tOffset:4\tNO_HEADERS\tk\tv\twith tab").unwrap();
        assert_eq!((record.partition, record.offset, record.timestamp), (1, 4, 17));
        assert_eq!((record.key.as_str(), record.value.as_str()), ("k", "v\twith tab"));
        assert_eq!(ConsoleRecord::parse("Processed a total of 2 messages"), None);
    }

    #[test]
    fn fields_of_a_dumped_batch_are_found_by_name() {
        let line = "baseOffset: 0 lastOffset: 2 count: 3 baseSequence: 7 compresscodec: zstd crc: 1 isvalid: true";
        let batch = DumpedBatch { line: line.into(), records: Vec::new() };
        assert_eq!(batch.field("baseSequence"), Some("7"));
        assert_eq!(batch.field("compresscodec"), Some("zstd"));
        assert!(batch.is_valid());
    }
}
