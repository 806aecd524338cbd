//! The workspace's own source as data: its crates, their files, and what each file defines and names.
//!
//! The measures (`src/bin/measure`) and the test of the walls (`tests/walls.rs`) read it. Cargo says which crates and
//! targets there are; from each target's root file the `mod` lines are followed. Configuration predicates are not
//! evaluated, apart from `#[cfg(test)]`, which makes what it stands on test code.

pub mod facts;
pub mod modules;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use facts::{Facts, Reference, Submodule};
use modules::Modules;

/// The folder whose crates are tests as a whole.
const TESTS_FOLDER: &str = "tests";

/// A workspace that was read.
#[derive(Debug)]
pub struct Workspace {
    /// Its folder.
    pub root: PathBuf,
    /// Its crates, ordered by name.
    pub crates: Vec<Crate>,
}

/// A package of the workspace.
#[derive(Debug)]
pub struct Crate {
    /// The package's name, as `countersign-server`.
    pub name: String,
    /// Its folder, relative to the workspace's.
    pub folder: PathBuf,
    /// The features that it declares.
    pub features: BTreeSet<String>,
    /// The workspace's crates that it depends on, apart from development dependencies.
    pub dependencies: BTreeSet<String>,
    /// The files of all its targets, each once.
    pub files: Vec<SourceFile>,
}

/// What a file is compiled into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The library.
    Library,
    /// A program.
    Program,
    /// The build script.
    BuildScript,
    /// Integration tests, benchmarks, examples.
    Tests,
}

/// One file.
#[derive(Debug)]
pub struct SourceFile {
    /// Its path, relative to the workspace's folder.
    pub path: PathBuf,
    /// What it is compiled into.
    pub target: Target,
    /// Whether all of it is test code.
    pub test: bool,
    /// The path of its module; empty for the root of a crate.
    pub module: Vec<String>,
    /// Its text.
    pub text: String,
    /// What it defines and names.
    pub facts: Facts,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<PackageMetadata>,
}

#[derive(Deserialize)]
struct PackageMetadata {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<DependencyMetadata>,
    targets: Vec<TargetMetadata>,
    features: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct DependencyMetadata {
    name: String,
    kind: Option<String>,
    path: Option<PathBuf>,
}

#[derive(Deserialize)]
struct TargetMetadata {
    kind: Vec<String>,
    src_path: PathBuf,
}

impl Workspace {
    /// Reads the workspace in this folder.
    ///
    /// # Errors
    /// Cargo knows no workspace there, or a file cannot be read or parsed.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let root = fs::canonicalize(folder)
            .with_context(|| format!("opening the folder {}", folder.display()))?;
        let metadata = metadata(&root)?;
        let mut crates = Vec::new();
        for package in metadata.packages {
            let name = package.name.clone();
            let read = Crate::read(&root, package).with_context(|| format!("reading {name}"))?;
            crates.push(read);
        }
        crates.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { root, crates })
    }

    /// The workspace that this crate was built from.
    ///
    /// # Errors
    /// As [`Workspace::read`].
    pub fn of_this_crate() -> anyhow::Result<Self> {
        Self::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
    }
}

/// Cargo, which the environment names when cargo itself runs this.
#[must_use]
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

fn metadata(root: &Path) -> anyhow::Result<Metadata> {
    let output = cargo()
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(root)
        .output()
        .context("running cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("reading what cargo metadata printed")
}

impl Crate {
    fn read(root: &Path, package: PackageMetadata) -> anyhow::Result<Self> {
        let folder = package.manifest_path.parent().unwrap_or(root);
        let folder = folder.strip_prefix(root).unwrap_or(folder).to_owned();
        let tests_only = folder.starts_with(TESTS_FOLDER);
        let mut files = Files {
            root,
            files: Vec::new(),
        };
        for TargetMetadata { kind, src_path } in &package.targets {
            let target = match kind.first().map(String::as_str) {
                Some("bin") => Target::Program,
                Some("custom-build") => Target::BuildScript,
                Some("test" | "bench" | "example") => Target::Tests,
                _ => Target::Library,
            };
            let test = tests_only || target == Target::Tests;
            let beside = src_path.parent().unwrap_or(root);
            files.follow(src_path, beside, target, &[], test)?;
        }
        let internal = package
            .dependencies
            .into_iter()
            .filter(|dependency| dependency.path.is_some())
            .filter(|dependency| dependency.kind.as_deref() != Some("dev"));
        Ok(Self {
            name: package.name,
            folder,
            features: package.features.into_iter().map(|(name, _)| name).collect(),
            dependencies: internal.map(|dependency| dependency.name).collect(),
            files: files.files,
        })
    }

    /// Its name in paths, as `countersign_server`.
    #[must_use]
    pub fn ident(&self) -> String {
        self.name.replace('-', "_")
    }

    /// The files that the library is made of, or the programs where there is none.
    pub fn main_files(&self) -> impl Iterator<Item = &SourceFile> {
        let library = self.files.iter().any(|f| f.target == Target::Library);
        let wanted = if library {
            Target::Library
        } else {
            Target::Program
        };
        self.files.iter().filter(move |file| file.target == wanted)
    }

    /// The paths that its library's production code names, or its program's.
    #[must_use]
    pub fn references(&self) -> Vec<&Reference> {
        let all = self.main_files().flat_map(|file| &file.facts.references);
        all.filter(|reference| !reference.test).collect()
    }

    /// The tree of its library's modules, or of its program's.
    #[must_use]
    pub fn modules(&self) -> Modules {
        Modules::of(self.main_files().map(|file| &file.facts))
    }
}

impl SourceFile {
    /// How many lines it has.
    #[must_use]
    pub fn lines(&self) -> usize {
        self.text.lines().count()
    }

    /// How many of its lines are production code: not test code, and not in a file of tests.
    #[must_use]
    pub fn production_lines(&self) -> usize {
        let numbers = (1..).zip(self.text.lines());
        numbers.filter(|(line, _)| !self.is_test(*line)).count()
    }

    /// Whether this line, from 1, is test code.
    #[must_use]
    pub fn is_test(&self, line: usize) -> bool {
        self.test || self.facts.is_test(line)
    }
}

/// Collects the files of one crate.
struct Files<'a> {
    root: &'a Path,
    files: Vec<SourceFile>,
}

impl Files<'_> {
    /// Reads a module's file and those of its submodules, which stand below `folder`.
    fn follow(
        &mut self,
        file: &Path,
        folder: &Path,
        target: Target,
        module: &[String],
        test: bool,
    ) -> anyhow::Result<()> {
        let path = file.strip_prefix(self.root).unwrap_or(file).to_owned();
        // A benchmark's support may be part of several benchmarks.
        if self.files.iter().any(|known| known.path == path) {
            return Ok(());
        }
        let text =
            fs::read_to_string(file).with_context(|| format!("reading {}", path.display()))?;
        let facts = Facts::gather(&text, module, test)
            .with_context(|| format!("parsing {}", path.display()))?;
        let submodules = facts.submodules.clone();
        self.files.push(SourceFile {
            path,
            target,
            test,
            module: module.to_vec(),
            text,
            facts,
        });
        for Submodule {
            path: below,
            file: named,
            test,
        } in submodules
        {
            let mut inside = folder.to_owned();
            inside.extend(below.iter().skip(module.len()));
            let file = match named {
                Some(named) => file.parent().unwrap_or(folder).join(named),
                None => inside.with_extension("rs"),
            };
            let file = if file.exists() {
                file
            } else {
                inside.join("mod.rs")
            };
            self.follow(&file, &inside, target, &below, test)?;
        }
        Ok(())
    }
}
