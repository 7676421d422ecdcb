//! Nodes as Java processes, their jars from Maven. The jars are fetched once into the cache; a node is a detached
//! process with a pid file and a log beside its data.

use std::env;
use std::fs;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use super::KAFKA_VERSION;
use super::TOOLS_VERSION;
use super::properties::LOG4J;
use crate::host;
use crate::host::Outcome;

/// The SLF4J 1.7 binding that Kafka's poms leave out; its version follows the log4j they bring.
const LOG4J_VERSION: &str = "2.25.4";

/// The main class of a broker, by which its process is told from another that got the same id.
const MAIN_CLASS: &str = "kafka.Kafka";

/// Whether Java and Maven are here.
pub(super) fn check() -> Outcome {
    if !host::works(java(), &["-version"]) {
        return Err("there is no Java (17 or later)".into());
    }
    if !host::works("mvn", &["--version"]) {
        return Err("there is no Maven (mvn)".into());
    }
    Ok(())
}

/// The Java to run: `$JAVA_HOME`'s, else the one on the path.
fn java() -> PathBuf {
    env::var_os("JAVA_HOME").map_or_else(|| PathBuf::from("java"), |home| PathBuf::from(home).join("bin/java"))
}

/// The broker's class path.
fn broker_class_path() -> Outcome<String> {
    fetch_jars("kafka_2.13", KAFKA_VERSION, &dependency("kafka_2.13", KAFKA_VERSION, ""))
}

/// The tools' class path. Apart from the broker's, since it brings the clients of another release; without Connect,
/// which none of the tools that we run needs.
pub(super) fn tools_class_path() -> Outcome<String> {
    let without_connect = "<exclusions><exclusion><groupId>org.apache.kafka</groupId>\
                           <artifactId>connect-runtime</artifactId></exclusion></exclusions>";
    fetch_jars("kafka-tools", TOOLS_VERSION, &dependency("kafka-tools", TOOLS_VERSION, without_connect))
}

fn dependency(artifact: &str, version: &str, exclusions: &str) -> String {
    format!(
        "<dependency><groupId>org.apache.kafka</groupId><artifactId>{artifact}</artifactId>\
         <version>{version}</version>{exclusions}</dependency>"
    )
}

/// Fetches what `dependency` needs into the cache, unless it lies there, and gives back the class path.
fn fetch_jars(name: &str, version: &str, dependency: &str) -> Outcome<String> {
    let folder = host::cache().join(format!("{name}-{version}"));
    if !folder.is_dir() {
        eprintln!("fetching {name} {version} with Maven (once)");
        // Two runs may fetch at the same time: each fills a folder of its own, and the first to rename it wins.
        let filling = host::cache().join(format!("{name}-{version}.{}", std::process::id()));
        fs::create_dir_all(&filling)?;
        let pom = filling.join("pom.xml");
        fs::write(
            &pom,
            format!(
                "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\n\
                 <groupId>milena</groupId><artifactId>{name}-class-path</artifactId><version>1</version>\
                 <packaging>pom</packaging>\n<dependencies>\n{dependency}\n<dependency><groupId>org.apache.logging.log4j\
                 </groupId><artifactId>log4j-slf4j-impl</artifactId><version>{LOG4J_VERSION}</version></dependency>\n\
                 </dependencies></project>\n"
            ),
        )?;
        let mut maven = Command::new("mvn");
        maven.args(["-B", "-q", "-ntp", "-f"]).arg(&pom);
        maven.args(["dependency:copy-dependencies", "-DincludeScope=runtime"]);
        maven.arg(format!("-DoutputDirectory={}", filling.display()));
        let fetched = host::capture(&mut maven);
        if fetched.is_err() || fs::rename(&filling, &folder).is_err() {
            fs::remove_dir_all(&filling)?;
        }
        fetched?;
    }
    Ok(format!("{}/*", folder.display()))
}

/// A new cluster id.
pub(super) fn random_cluster_id() -> Outcome<String> {
    let mut command = Command::new(java());
    command.args(["-cp", &broker_class_path()?, "kafka.tools.StorageTool", "random-uuid"]);
    Ok(host::capture(&mut command)?.trim().to_owned())
}

/// Formats the data folder that `folder/server.properties` names.
pub(super) fn format(folder: &Path, cluster_id: &str) -> Outcome {
    fs::write(folder.join("log4j2.properties"), LOG4J)?;
    let mut command = Command::new(java());
    command.args(["-XX:TieredStopAtLevel=1", "-cp", &broker_class_path()?, "kafka.tools.StorageTool", "format"]);
    command.args(["-t", cluster_id, "-c"]).arg(folder.join("server.properties"));
    host::capture(&mut command)?;
    Ok(())
}

/// Starts the node whose files lie in `folder`, apart from us: it outlives this process and its terminal.
pub(super) fn start(folder: &Path) -> Outcome {
    let log = File::options().create(true).append(true).open(folder.join("server.log"))?;
    let mut command = Command::new(java());
    command.args(["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC"]);
    command.arg(format!("-Dlog4j2.configurationFile={}", folder.join("log4j2.properties").display()));
    command.args(["-cp", &broker_class_path()?, MAIN_CLASS]).arg(folder.join("server.properties"));
    command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let child = command.spawn().map_err(|error| format!("can't start Java: {error}"))?;
    fs::write(folder.join("pid"), child.id().to_string())?;
    Ok(())
}

/// The id of the node's process, if that is alive.
pub(super) fn process(folder: &Path) -> Option<u32> {
    let pid: u32 = fs::read_to_string(folder.join("pid")).ok()?.trim().parse().ok()?;
    // An id may have been given to another process since: what runs under it must be this very node. A dead child that
    // nobody waited for keeps its id, but has no command line; neither has one that just begins, for a moment.
    let command_line = match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(bytes) if bytes.is_empty() && !is_zombie(pid) => return Some(pid),
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) if Path::new("/proc/self").exists() => return None,
        Err(_) => host::capture(Command::new("ps").args(["-o", "command=", "-p", &pid.to_string()])).ok()?,
    };
    let ours = folder.join("server.properties");
    (command_line.contains(MAIN_CLASS) && command_line.contains(&*ours.to_string_lossy())).then_some(pid)
}

fn is_zombie(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// Sends `signal` (`TERM`, `KILL`, `STOP`, `CONT`) to the node's process.
pub(super) fn signal(folder: &Path, signal: &str) -> Outcome {
    let pid = process(folder).ok_or("the node doesn't run")?;
    // The shell's own `kill`: a slim image has no other.
    host::run(Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &pid.to_string()]))
}

/// Stops the node and waits until its process is gone; an orderly stop that takes too long becomes a hard one.
pub(super) fn stop(folder: &Path, hard: bool) -> Outcome {
    if process(folder).is_none() {
        return Ok(());
    }
    signal(folder, if hard { "KILL" } else { "TERM" })?;
    let began = Instant::now();
    let mut killed = hard;
    while process(folder).is_some() {
        if began.elapsed() > Duration::from_secs(30) && !killed {
            killed = true;
            signal(folder, "KILL")?;
        }
        if began.elapsed() > Duration::from_secs(60) {
            return Err(format!("the process of {} doesn't end", folder.display()).into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    fs::remove_file(folder.join("pid"))?;
    Ok(())
}
