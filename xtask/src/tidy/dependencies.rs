//! Who may depend on whom: the direction of our crates, what must not be under the lowest of them, and that every
//! crate of others is accounted for.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;

use cargo_metadata::DependencyKind;
use cargo_metadata::Metadata;
use cargo_metadata::Package;
use cargo_metadata::PackageId;

use super::Findings;
use crate::host;
use crate::host::Outcome;

/// Which of our crates each may use. protocol → core → net → client → admin → bus → cli, the broker beside it.
const MAY_USE: [(&str, &[&str]); 10] = [
    ("milena-protocol", &[]),
    ("milena-core", &["milena-protocol"]),
    ("milena-net", &["milena-protocol", "milena-core"]),
    ("milena-client", &["milena-protocol", "milena-core", "milena-net"]),
    ("milena-admin", &["milena-protocol", "milena-client"]),
    ("milena-macros", &[]),
    ("milena-broker", &["milena-protocol"]),
    ("milena", &["milena-client", "milena-admin", "milena-macros", "milena-broker"]),
    ("milena-cli", &["milena", "milena-client", "milena-admin", "milena-broker"]),
    ("xtask", &[]),
];

/// What must be nowhere under a crate, however far down.
const NEVER_UNDER: [(&str, &[&str]); 2] = [
    ("milena-protocol", &["tokio", "mio", "socket2", "rand", "fastrand", "getrandom", "anyhow"]),
    ("milena-core", &["tokio", "mio", "socket2", "rand", "anyhow", "futures-executor"]),
];

/// What no published crate uses: errors without types, and clients that we are the alternative to.
const NEVER_PUBLISHED: [&str; 5] = ["anyhow", "openssl", "native-tls", "rdkafka", "kafka-protocol"];

/// The most crates of others that the bus may bring with its default features.
const MAX_THIRD_PARTY: usize = 60;

pub(super) fn check(metadata: &Metadata, findings: &mut Findings) -> Outcome {
    let members = metadata.workspace_packages();
    let ours: BTreeSet<&str> = members.iter().map(|package| package.name.as_str()).collect();
    for package in &members {
        check_direction(package, &ours, findings);
        check_published(package, findings);
    }
    check_never_under(metadata, findings);
    check_reasons(&members, &ours, findings)?;
    check_count(&ours, findings)
}

fn is_published(package: &Package) -> bool {
    package.publish.as_ref().is_none_or(|registries| !registries.is_empty())
}

/// Development dependencies may point anywhere: a test is no part of the crate.
fn check_direction(package: &Package, ours: &BTreeSet<&str>, findings: &mut Findings) {
    let name = package.name.as_str();
    let Some((_, allowed)) = MAY_USE.iter().find(|(from, _)| *from == name) else {
        if is_published(package) {
            findings.error(format!("{name} has no place in the direction of crates (xtask/src/tidy/dependencies.rs)"));
        }
        return;
    };
    for dependency in &package.dependencies {
        let used = dependency.name.as_str();
        if dependency.kind != DependencyKind::Development && ours.contains(used) && !allowed.contains(&used) {
            findings.error(format!("{name} depends on {used}, against the direction of ARCHITECTURE.md"));
        }
    }
}

fn check_published(package: &Package, findings: &mut Findings) {
    if !is_published(package) {
        return;
    }
    for dependency in &package.dependencies {
        if dependency.kind != DependencyKind::Development && NEVER_PUBLISHED.contains(&dependency.name.as_str()) {
            findings.error(format!("{} depends on {}", package.name, dependency.name));
        }
    }
}

fn check_never_under(metadata: &Metadata, findings: &mut Findings) {
    let Some(resolve) = &metadata.resolve else { return };
    let names: BTreeMap<&PackageId, &str> =
        metadata.packages.iter().map(|package| (&package.id, package.name.as_str())).collect();
    let mut uses: BTreeMap<&PackageId, Vec<&PackageId>> = BTreeMap::new();
    for node in &resolve.nodes {
        let normal = node
            .deps
            .iter()
            .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
        uses.insert(&node.id, normal.map(|dependency| &dependency.pkg).collect());
    }
    for (name, never) in NEVER_UNDER {
        let Some(package) = metadata.packages.iter().find(|package| package.name.as_str() == name) else { continue };
        let mut reached = BTreeSet::from([&package.id]);
        let mut waiting = vec![&package.id];
        while let Some(id) = waiting.pop() {
            for dependency in uses.get(id).into_iter().flatten() {
                if reached.insert(dependency) {
                    waiting.push(dependency);
                }
            }
        }
        for dependency in reached.iter().filter_map(|id| names.get(id)).filter(|found| never.contains(found)) {
            findings.error(format!("{dependency} is somewhere under {name}"));
        }
    }
}

/// Every crate of others that we name in a manifest stands in ARCHITECTURE.md, with its reason.
fn check_reasons(members: &[&Package], ours: &BTreeSet<&str>, findings: &mut Findings) -> Outcome {
    let architecture = fs::read_to_string(host::root().join("ARCHITECTURE.md"))?;
    let section = architecture.split("\n## ").find(|section| section.starts_with("Dependencies")).unwrap_or_default();
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '-' || letter == '_';
    let named: BTreeSet<&str> = section.split(|letter| !is_name(letter)).collect();
    let used: BTreeSet<&str> =
        members.iter().flat_map(|package| &package.dependencies).map(|dependency| dependency.name.as_str()).collect();
    for dependency in used.difference(ours).filter(|dependency| !named.contains(*dependency)) {
        findings.error(format!("ARCHITECTURE.md, \"Dependencies\", gives no reason for {dependency}"));
    }
    Ok(())
}

/// Counted by `cargo tree`, since the metadata of a workspace mixes the features of all its members.
fn check_count(ours: &BTreeSet<&str>, findings: &mut Findings) -> Outcome {
    let tree = host::capture(host::cargo().args([
        "tree",
        "--package",
        "milena",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))?;
    // `name vX.Y.Z [(path)] [(*)]`: two versions of one crate count twice.
    let crates: BTreeSet<(&str, &str)> = tree
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, rest)| (name, rest.split(' ').next().unwrap_or_default()))
        .filter(|(name, _)| !ours.contains(name))
        .collect();
    if crates.len() > MAX_THIRD_PARTY {
        findings.error(format!("milena brings {} crates of others; the limit is {MAX_THIRD_PARTY}", crates.len()));
    }
    eprintln!("tidy: milena brings {} crates of others (at most {MAX_THIRD_PARTY})", crates.len());
    Ok(())
}
