//! How many crates stand behind a build, our own included.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use countersign_tests::source::{Workspace, cargo};
use serde::Serialize;

/// The features of the library that a caller and callee over HTTP needs, of those that the library has.
const HTTP_ONLY: [&str; 2] = ["axum", "workload-api"];

/// What a build of one package needs.
#[derive(Debug, Serialize)]
pub(crate) struct Dependencies {
    /// The package and its features.
    pub(crate) build: String,
    /// The number of crates, build dependencies and procedural macros among them.
    pub(crate) crates: Option<usize>,
    /// Why they could not be counted.
    pub(crate) fault: Option<String>,
}

/// The builds whose weight is watched.
pub(crate) fn measure(workspace: &Workspace) -> Vec<Dependencies> {
    let mut builds = Vec::new();
    for package in [
        "countersign-demo",
        "countersign-server",
        "countersign-agent",
        "countersign",
    ] {
        builds.push(count(workspace, package, package, &[]));
    }
    let library = workspace
        .crates
        .iter()
        .find(|known| known.name == "countersign");
    if let Some(library) = library {
        let features: Vec<_> = HTTP_ONLY
            .into_iter()
            .filter(|f| library.features.contains(*f))
            .collect();
        let features = features.join(",");
        let flags = ["--no-default-features", "--features", &features];
        builds.push(count(
            workspace,
            "countersign",
            "countersign, HTTP only",
            &flags,
        ));
    }
    builds
}

fn count(workspace: &Workspace, package: &str, build: &str, flags: &[&str]) -> Dependencies {
    let counted = tree(workspace, package, flags);
    Dependencies {
        build: build.to_owned(),
        crates: counted.as_ref().ok().copied(),
        fault: counted.err().map(|error| format!("{error:#}")),
    }
}

fn tree(workspace: &Workspace, package: &str, flags: &[&str]) -> anyhow::Result<usize> {
    let output = cargo()
        .args([
            "tree",
            "--locked",
            "--package",
            package,
            "--edges",
            "normal,build",
        ])
        .args(["--prefix", "none", "--no-dedupe", "--format", "{p}"])
        .args(flags)
        .current_dir(&workspace.root)
        .output()
        .context("running cargo tree")?;
    ensure!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8_lossy(&output.stdout);
    // A line is a name, a version, and marks like `(proc-macro)` or the folder.
    let crates: BTreeSet<_> = text
        .lines()
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>())
        .collect();
    Ok(crates.len())
}
