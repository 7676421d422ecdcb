//! The copy of the sources that defects are put into. It is brought up to date file by file, so that cargo builds only
//! what has changed since the last time; nobody else may use it meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::host;
use crate::host::Outcome;

pub(super) struct Tree {
    folder: PathBuf,
    /// Held for as long as the copy is used.
    _lock: File,
}

impl Tree {
    /// The sources as they are now, uncommitted changes included, under `folder`.
    pub(super) fn mirror(folder: &Path) -> Outcome<Self> {
        fs::create_dir_all(folder)?;
        let lock = File::create(folder.join("lock"))?;
        lock.try_lock().map_err(|_| format!("another run uses {}: wait for it to end", folder.display()))?;
        let tree = Self { folder: folder.to_path_buf(), _lock: lock };
        let mut git = Command::new("git");
        git.current_dir(host::root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let listed = host::capture(&mut git)?;
        let mut files = BTreeSet::new();
        for file in listed.split_terminator('\0').map(PathBuf::from) {
            // Listed, and yet not there, where it was deleted and this is not committed.
            let Ok(bytes) = fs::read(host::root().join(&file)) else { continue };
            let copy = tree.root().join(&file);
            // A file that is written anew makes cargo build.
            if fs::read(&copy).ok().as_ref() != Some(&bytes) {
                fs::create_dir_all(copy.parent().ok_or("a file lies in a folder")?)?;
                fs::write(&copy, bytes)?;
            }
            files.insert(copy);
        }
        remove_others(&tree.root(), &files)?;
        Ok(tree)
    }

    /// The copy's root.
    pub(super) fn root(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// Where cargo builds it: one folder for all defects, so that dependencies are built once.
    pub(super) fn target(&self) -> PathBuf {
        self.folder.join("target")
    }

    pub(super) fn read(&self, file: &str) -> Outcome<String> {
        let path = self.root().join(file);
        Ok(fs::read_to_string(&path).map_err(|error| format!("can't read {}: {error}", path.display()))?)
    }

    pub(super) fn write(&self, file: &str, text: &str) -> Outcome {
        let path = self.root().join(file);
        Ok(fs::write(&path, text).map_err(|error| format!("can't write {}: {error}", path.display()))?)
    }

    /// Keeps what a test said about a defect, for whoever wonders whether it failed for the right reason.
    pub(super) fn keep_output(&self, defect: &str, said: &str) -> Outcome {
        let folder = self.folder.join("said");
        fs::create_dir_all(&folder)?;
        Ok(fs::write(folder.join(format!("{defect}.txt")), said)?)
    }
}

/// Removes from `folder` what is not among `files`: cargo would find a test or an example that the sources have no more.
fn remove_others(folder: &Path, files: &BTreeSet<PathBuf>) -> Outcome {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(&path, files)?;
        } else if !files.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
