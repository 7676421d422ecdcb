//! `cargo xtask defects`: proves that the tests would notice. Each planted defect of `testdata/defects/` is one wrong
//! line; it is put into a copy of the sources, and the test that it names must fail there, or the simulation within so many
//! seeds. Never touches the sources.
//!
//! A defect whose text isn't found exactly once, one that doesn't build, and a test that doesn't pass without the defect
//! are failures too: a list that no longer fits its sources proves nothing.

mod tree;
mod trial;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;
use std::time::Instant;

use clap::Args;
use serde::Deserialize;

use crate::host;
use crate::host::Outcome;
use tree::Tree;
use trial::Ending;
use trial::Patience;
use trial::Program;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Which of them; all, unless named
    names: Vec<String>,
    /// How long a test may take
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many seeds the simulation has
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// Say what there is, and run nothing
    #[arg(long)]
    list: bool,
}

/// One wrong line, as a file of `testdata/defects/` has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Defect {
    name: String,
    /// The promise that it breaks, in a sentence.
    breaks: String,
    package: String,
    /// `lib`, the name of an integration test, or `simulation`.
    target: String,
    /// The test that must fail, with its path; nothing of the simulation.
    #[serde(default)]
    test: String,
    file: String,
    /// The right text, which the file has once, and the wrong one.
    find: String,
    replace: String,
}

impl Defect {
    fn program(&self) -> Program<'_> {
        Program { package: &self.package, target: &self.target }
    }

    fn shown_test(&self) -> String {
        format!("{} {} {}", self.package, self.target, self.test).trim_end().to_owned()
    }
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let defects = chosen(load()?, &arguments.names)?;
    if arguments.list {
        for defect in &defects {
            println!("{}: {}\n    {}\n    {}", defect.name, defect.breaks, defect.file, defect.shown_test());
        }
        return Ok(());
    }
    let tree = Tree::mirror(&host::target().join("defects"))?;
    let patience = Patience { test: Duration::from_secs(arguments.seconds), seeds: arguments.seeds };
    let width = defects.iter().map(|defect| defect.name.len()).max().unwrap_or(0);
    println!("{:width$} {:>8} {:8} test", "defect", "seconds", "");
    let mut failures = Vec::new();
    // The right sources of a program are built once for all its defects.
    for of_program in defects.chunk_by(|one, next| one.program() == next.program()) {
        let wrong = unfit(&tree, of_program[0].program(), of_program, patience)?;
        for defect in of_program {
            let began = Instant::now();
            let outcome = match wrong.iter().find(|(name, _)| *name == defect.name) {
                Some((_, why)) => Err(why.clone()),
                None => plant(&tree, defect, patience)?,
            };
            let word = if outcome.is_ok() { "caught" } else { "NOT" };
            let seconds = began.elapsed().as_secs_f64();
            let by = outcome.as_deref().unwrap_or_default();
            println!("{:width$} {seconds:>8.1} {word:8} {}{by}", defect.name, defect.shown_test());
            if let Err(why) = outcome {
                failures.push(format!("{}: {why}", defect.name));
            }
        }
    }
    println!("{} of {} defects caught", defects.len() - failures.len(), defects.len());
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n").into()) }
}

/// Every defect, those of one program one after the other.
fn load() -> Outcome<Vec<Defect>> {
    let mut files = fs::read_dir(host::root().join("testdata/defects"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let mut defects = Vec::new();
    for file in files {
        let listed: Vec<Defect> =
            serde_json::from_slice(&fs::read(&file)?).map_err(|error| format!("{}: {error}", file.display()))?;
        defects.extend(listed);
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = defects.iter().find(|defect| !names.insert(defect.name.as_str())) {
        return Err(format!("two defects are called {}: rename one", twice.name).into());
    }
    defects.sort_by(|one, next| one.program().cmp(&next.program()));
    Ok(defects)
}

fn chosen(mut defects: Vec<Defect>, names: &[String]) -> Outcome<Vec<Defect>> {
    if let Some(unknown) = names.iter().find(|name| defects.iter().all(|defect| defect.name != **name)) {
        return Err(format!("there is no defect {unknown}: --list says which there are").into());
    }
    if !names.is_empty() {
        defects.retain(|defect| names.contains(&defect.name));
    }
    Ok(defects)
}

/// Those of a program's defects that prove nothing, and why: their text isn't there once, or their test doesn't pass
/// without them.
fn unfit<'a>(
    tree: &Tree,
    program: Program<'_>,
    defects: &'a [Defect],
    patience: Patience,
) -> Outcome<Vec<(&'a str, String)>> {
    let built = program.build(tree).map_err(|failure| format!("as it is, {failure}"))?;
    let mut unfit = Vec::new();
    // The one judgement of the simulation is that of all its defects.
    let mut simulated = None;
    for defect in defects {
        let occurrences = tree.read(&defect.file)?.matches(&defect.find).count();
        if occurrences != 1 || defect.find == defect.replace {
            unfit.push((
                defect.name.as_str(),
                format!("its text is in {} {occurrences} times, not once: adapt the defect", defect.file),
            ));
            continue;
        }
        let judged = match simulated.take() {
            Some(judged) if program.is_simulation() => judged,
            _ => built.run(&defect.test, patience)?,
        };
        simulated = Some(judged.clone());
        let (ending, said) = judged;
        if ending != Ending::Passed {
            let said = host::last_lines(&said, 20);
            unfit.push((defect.name.as_str(), format!("{} {ending} without it\n{said}", defect.shown_test())));
        }
    }
    Ok(unfit)
}

/// Puts the defect in, runs its test, takes it out again. The inner result says whether the test failed as it must, and of
/// the simulation by which seed.
fn plant(tree: &Tree, defect: &Defect, patience: Patience) -> Outcome<Result<String, String>> {
    let right = tree.read(&defect.file)?;
    tree.write(&defect.file, &right.replacen(&defect.find, &defect.replace, 1))?;
    let judged = defect.program().build(tree).and_then(|built| built.run(&defect.test, patience));
    tree.write(&defect.file, &right)?;
    Ok(match judged {
        Ok((Ending::Failed, said)) => {
            tree.keep_output(&defect.name, &said)?;
            Ok(trial::first_seed(&said).map_or_else(String::new, |seed| format!(": seed {seed}")))
        }
        Ok((ending, _)) => Err(format!("{} {ending}, though {}", defect.shown_test(), defect.breaks)),
        Err(failure) => Err(failure.to_string()),
    })
}
