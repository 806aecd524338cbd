//! Processes under test: started, watched, and ended with the test that started them.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

/// How long a test waits for an event before it gives up. Generous: it is a bound, not an expectation.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How many bytes of output a process may leave in memory; the start is forgotten first.
const MAX_OUTPUT: usize = 1 << 20;

/// A running process whose output is kept. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Process {
    /// Starts a program with these arguments and variables.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(
        name: &str,
        program: &Path,
        args: &[impl AsRef<OsStr>],
        env: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name} from {}", program.display()))?;
        let output = Arc::default();
        if let Some(stdout) = child.stdout.take() {
            collect(stdout, &output);
        }
        if let Some(stderr) = child.stderr.take() {
            collect(stderr, &output);
        }
        Ok(Self {
            name: name.to_owned(),
            child,
            output,
        })
    }

    /// What it printed so far, both streams by line.
    #[must_use]
    pub fn output(&self) -> String {
        self.output
            .lock()
            .map(|text| text.clone())
            .unwrap_or_default()
    }

    /// Its process ID while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .map(Pid::from_raw)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended already.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self
            .pid()
            .with_context(|| format!("{} has ended already", self.name))?;
        kill(pid, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Asks it to end, and waits for that.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait().await
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("{} did not end; its output:\n{}", self.name, self.output()),
        }
    }

    /// Waits until its output has this text.
    ///
    /// # Errors
    /// It ends or time runs out before.
    pub async fn printed(&mut self, text: &str) -> anyhow::Result<()> {
        self.until(&format!("print {text:?}"), |process| {
            process.output().contains(text)
        })
        .await
    }

    /// Waits until this file is there and not empty, and reads it.
    ///
    /// # Errors
    /// The process ends or time runs out before.
    pub async fn wrote(&mut self, path: &Path) -> anyhow::Result<String> {
        let read = || std::fs::read_to_string(path).unwrap_or_default();
        self.until(&format!("write {}", path.display()), |_| !read().is_empty())
            .await?;
        Ok(read())
    }

    /// Waits until its output has a line that begins like this, and returns that line.
    ///
    /// # Errors
    /// It ends or time runs out before.
    pub async fn line(&mut self, start: &str) -> anyhow::Result<String> {
        let find = |process: &Self| {
            process
                .output()
                .lines()
                .find(|line| line.starts_with(start))
                .map(ToOwned::to_owned)
        };
        self.until(&format!("print a line with {start:?}"), |p| {
            find(p).is_some()
        })
        .await?;
        Ok(find(self).unwrap_or_default())
    }

    /// Waits until its output has this many lines that begin like this.
    ///
    /// # Errors
    /// It ends or time runs out before.
    pub async fn lines(&mut self, start: &str, count: usize) -> anyhow::Result<()> {
        let found = |process: &Self| {
            process
                .output()
                .lines()
                .filter(|l| l.starts_with(start))
                .count()
        };
        self.until(&format!("print {count} lines with {start:?}"), |p| {
            found(p) >= count
        })
        .await
    }

    /// Waits for the line of this number, from 1, among those that begin in one of these ways, and returns it.
    ///
    /// # Errors
    /// It ends or time runs out before.
    pub async fn answer(&mut self, starts: &[&str], number: usize) -> anyhow::Result<String> {
        let find = |process: &Self| {
            let output = process.output();
            let mut lines = output
                .lines()
                .filter(|line| starts.iter().any(|start| line.starts_with(start)));
            lines.nth(number.saturating_sub(1)).map(ToOwned::to_owned)
        };
        self.until(&format!("give answer {number}"), |p| find(p).is_some())
            .await?;
        Ok(find(self).unwrap_or_default())
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// It has ended.
    pub async fn enter(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self.child.stdin.as_mut().context("no standard input")?;
        stdin.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(stdin.flush().await?)
    }

    async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !done(self) {
            if let Some(status) = self.child.try_wait()? {
                // The last of its output may still be on its way.
                tokio::time::sleep(Duration::from_millis(50)).await;
                if done(self) {
                    return Ok(());
                }
                bail!(
                    "{} ended with {status} and did not {what}:\n{}",
                    self.name,
                    self.output()
                );
            }
            if tokio::time::Instant::now() > deadline {
                bail!(
                    "{} did not {what}; its output:\n{}",
                    self.name,
                    self.output()
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "shown with the failing test")]
            {
                eprintln!("--- {}\n{}", self.name, self.output());
            }
        }
    }
}

fn collect(stream: impl AsyncRead + Send + Unpin + 'static, output: &Arc<Mutex<String>>) {
    let output = Arc::clone(output);
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Ok(mut text) = output.lock() {
                text.push_str(&line);
                text.push('\n');
                if text.len() > MAX_OUTPUT {
                    let half = text.floor_char_boundary(MAX_OUTPUT / 2);
                    text.drain(..half);
                }
            }
        }
    });
}

/// What a command that ran to its end printed.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a program to its end.
///
/// # Errors
/// It cannot be started, or does not end in time.
pub async fn run(
    program: &Path,
    args: &[impl AsRef<OsStr>],
    env: &[(&str, &str)],
) -> anyhow::Result<Ran> {
    let mut command = Command::new(program);
    command
        .args(args)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output())
        .await
        .with_context(|| format!("{command:?} did not end"))??;
    Ok(Ran {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A short folder for sockets, which may have names of at most 108 bytes.
///
/// # Errors
/// It cannot be made.
pub fn short_folder() -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("cs")
        .rand_bytes(6)
        .tempdir_in(short_root())
}

fn short_root() -> PathBuf {
    let root = std::env::temp_dir();
    if root.as_os_str().len() > 40 {
        PathBuf::from("/tmp")
    } else {
        root
    }
}
