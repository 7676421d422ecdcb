//! Gets the schemas of the pinned Kafka release: from the cache, or by Maven from the kafka-clients jar.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The release whose schemas the committed code was generated from.
pub(super) const KAFKA_VERSION: &str = "4.4.0";

/// The folder with the message schemas, fetched and unpacked if need be.
pub(super) fn schemas() -> Result<PathBuf, String> {
    let unpacked = cache()?.join(format!("kafka-{KAFKA_VERSION}/schemas"));
    let messages = unpacked.join("common/message");
    if !messages.join("ApiVersionsRequest.json").exists() {
        fs::create_dir_all(&unpacked).map_err(|error| format!("can't create {}: {error}", unpacked.display()))?;
        let artifact = format!("-Dartifact=org.apache.kafka:kafka-clients:{KAFKA_VERSION}");
        let output = format!("-DoutputDirectory={}", unpacked.display());
        let includes = "-Dmdep.unpack.includes=common/message/*.json";
        // Without a project, Maven leaves a note of what it has unpacked where it runs: it goes when the schemas go.
        let mut maven = Command::new("mvn");
        maven.args(["-q", "-B", "dependency:unpack", &artifact, &output, includes]).current_dir(&unpacked);
        run(&mut maven)?;
    }
    Ok(messages)
}

/// `$MILENA_CACHE`, else `~/.cache/milena`.
fn cache() -> Result<PathBuf, String> {
    if let Some(cache) = std::env::var_os("MILENA_CACHE") {
        return Ok(cache.into());
    }
    let home = std::env::home_dir().ok_or("no home directory: set MILENA_CACHE to where downloads may be kept")?;
    Ok(home.join(".cache/milena"))
}

/// True if the schemas are at hand or can be fetched.
pub(crate) fn is_available() -> bool {
    let has_schemas = |cache: &Path| {
        cache.join(format!("kafka-{KAFKA_VERSION}/schemas/common/message/ApiVersionsRequest.json")).exists()
    };
    cache().is_ok_and(|cache| has_schemas(&cache))
        || Command::new("mvn").arg("-v").output().is_ok_and(|out| out.status.success())
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("can't run {program}: {error}; install it to go on"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("{program} failed: {}", String::from_utf8_lossy(&said).trim()))
}
