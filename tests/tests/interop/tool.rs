//! What is installed on this machine, and the peers built with it.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_tests::deployment::link_or_copy;
use tokio::process::Command;

use crate::NODE;

/// How long a build may take that downloads what it needs.
const BUILD_PATIENCE: Duration = Duration::from_secs(600);

/// How one peer is started.
#[derive(Clone, Debug)]
pub(crate) struct Tool {
    /// The language; its SPIFFE ID ends with it.
    pub(crate) name: &'static str,
    /// The executable, as the kernel will name it.
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
}

/// The peer of each language whose tools are here, ready to start.
pub(crate) async fn peers(folder: &Path) -> anyhow::Result<Vec<Tool>> {
    let found = [
        here("Rust", rust(folder)),
        here("go-spiffe", go(folder).await),
        here("py-spiffe", python().await),
        here("java-spiffe", java(folder).await),
    ];
    let mut tools = Vec::with_capacity(found.len());
    for tool in found {
        tools.extend(tool?);
    }
    Ok(tools)
}

/// The Go peer, if Go is here.
pub(crate) async fn go_peer(folder: &Path) -> anyhow::Result<Option<Tool>> {
    here("go-spiffe", go(folder).await)
}

/// What was found, or nothing and a line that says so.
pub(crate) fn here<T>(what: &str, found: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
    match found {
        Ok(tool) => Ok(Some(tool)),
        Err(error) if std::env::var_os("COUNTERSIGN_INTEROP").is_some() => {
            Err(error.context(format!("{what} is required here")))
        }
        Err(error) => {
            // Past the capture of test output: a person who runs the tests shall see what was left out. The last line of
            // what a tool said is the one that says why.
            let told = format!("{error:#}");
            let why = told.lines().last().unwrap_or_default();
            writeln!(std::io::stderr(), "interop: {what} is left out: {why}")?;
            Ok(None)
        }
    }
}

fn rust(folder: &Path) -> anyhow::Result<Tool> {
    let program = folder.join("peer-rust");
    link_or_copy(NODE.as_ref(), &program)?;
    Ok(Tool {
        name: "rust",
        program,
        args: vec!["peer".into()],
    })
}

async fn go(folder: &Path) -> anyhow::Result<Tool> {
    let program = folder.join("peer-go");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(".");
    finished(build.current_dir(source("go"))).await?;
    Ok(Tool {
        name: "go",
        program,
        args: Vec::new(),
    })
}

async fn python() -> anyhow::Result<Tool> {
    let python = std::env::var_os("COUNTERSIGN_INTEROP_PYTHON").unwrap_or("python3".into());
    let mut probe = Command::new(&python);
    probe.args(["-c", "import os, sys, spiffe, spiffetls; print(os.path.realpath(sys.executable)); print(*sys.path[1:], sep=':')"]);
    let said = finished(&mut probe).await?;
    let (program, path) = said.split_once('\n').context("two lines were expected")?;
    // The executable itself, so that its path is the one in the entry; it finds its packages by the path.
    let start = "import runpy, sys; sys.path[1:] = sys.argv[1].split(':'); runpy.run_path(sys.argv[2], run_name='__main__')";
    Ok(Tool {
        name: "python",
        program: program.into(),
        args: vec![
            "-c".into(),
            start.into(),
            path.trim().into(),
            source("python").join("peer.py").into(),
        ],
    })
}

async fn java(folder: &Path) -> anyhow::Result<Tool> {
    let target = folder.join("java");
    let dependencies = target.join("dependency");
    let mut build = Command::new("mvn");
    build
        .args(["-q", "-B", "compile", "dependency:copy-dependencies", "-f"])
        .arg(source("java").join("pom.xml"))
        .arg(format!("-Dinterop.target={}", target.display()))
        .arg(format!("-DoutputDirectory={}", dependencies.display()));
    finished(&mut build).await?;
    let mut probe = Command::new("java");
    probe.args(["-XshowSettings:properties", "-version"]);
    let said = finished(&mut probe).await?;
    let home = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("java.home = "))
        .context("java does not say where it is")?;
    let classes = format!(
        "{}:{}/*",
        target.join("classes").display(),
        dependencies.display()
    );
    Ok(Tool {
        name: "java",
        program: Path::new(home).join("bin/java").canonicalize()?,
        args: vec![
            "-cp".into(),
            classes.into(),
            "dev.countersign.interop.Peer".into(),
        ],
    })
}

fn source(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("interop")
        .join(language)
}

/// What a command printed on both streams, if it succeeded.
pub(crate) async fn finished(command: &mut Command) -> anyhow::Result<String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let name = command.as_std().get_program().to_owned();
    let output = tokio::time::timeout(BUILD_PATIENCE, command.output())
        .await
        .with_context(|| format!("{name:?} did not end"))?
        .with_context(|| format!("{name:?} can't be started"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(
        output.status.success(),
        "{name:?} ended with {}: {}",
        output.status,
        said.trim()
    );
    Ok(said)
}
