//! The stage: a folder with everything in it, the daemons, and the commands that are run against them. Each process is
//! this very program under another name.

mod cast;
mod config;
mod deadline;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use countersign::{ENDPOINT_VARIABLE, POLICY_VARIABLE};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::{Child, Command};

pub(crate) use cast::Cast;
pub(crate) use config::POLICY;
pub(crate) use deadline::Deadline;

use crate::script::{Name, OF_THE_SHOW};

/// Names the server's socket to its command line.
pub(crate) const SERVER_SOCKET_VARIABLE: &str = "SPIRE_SERVER_PRIVATE_SOCKET";

/// Sockets may have names of at most 108 bytes; the longest name in the folder takes some of them.
const LONGEST_ROOT: usize = 60;
/// How long a daemon may take to end in order.
const ENDING: Duration = Duration::from_secs(5);
/// How often it is looked whether a daemon serves: a file that appears sends no event.
const LOOK: Duration = Duration::from_millis(10);

/// Everything but the workloads.
#[derive(Debug)]
pub(crate) struct Stage {
    folder: TempDir,
    program: PathBuf,
    deadline: Deadline,
    daemons: Vec<Daemon>,
}

#[derive(Debug)]
struct Daemon {
    name: &'static str,
    child: Child,
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Stage {
    /// A folder with the configuration of the server and the policy; nothing runs yet.
    pub(crate) fn build(deadline: Deadline) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding this program's own file")?;
        let folder = folder()?;
        let stage = Self {
            folder,
            program,
            deadline,
            daemons: Vec::new(),
        };
        std::fs::write(stage.path("server.conf"), config::server(stage.folder()))?;
        std::fs::write(stage.path("mesh.hcl"), POLICY)?;
        for name in Name::ALL {
            link_or_copy(&stage.program, &stage.path(name.as_str()))?;
        }
        Ok(stage)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file or folder in the stage's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// This program.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    pub(crate) const fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// The server's socket for admins.
    pub(crate) fn server_socket(&self) -> PathBuf {
        self.path("server/api.sock")
    }

    /// The node agent's socket for workloads.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.path("agent/api.sock")
    }

    /// The Workload API, as workloads are told of it.
    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.agent_socket().display())
    }

    /// Starts the server and waits until it serves; gives its process ID and where it listens for node agents.
    pub(crate) async fn start_server(&mut self) -> anyhow::Result<(u32, SocketAddr)> {
        let (pid, addresses) = self.start_daemon("server", &[]).await?;
        Ok((pid, tcp(&addresses)?))
    }

    /// Starts the node agent and waits until it serves workloads; gives its process ID.
    pub(crate) async fn start_agent(
        &mut self,
        server: SocketAddr,
        token: &str,
    ) -> anyhow::Result<u32> {
        std::fs::write(
            self.path("agent.conf"),
            config::agent(self.folder(), server),
        )?;
        let (pid, _) = self.start_daemon("agent", &["-joinToken", token]).await?;
        Ok(pid)
    }

    async fn start_daemon(
        &mut self,
        name: &'static str,
        more: &[&str],
    ) -> anyhow::Result<(u32, String)> {
        let (config, addresses) = (
            self.path(&format!("{name}.conf")),
            self.path(&format!("{name}.addr")),
        );
        let log = self.log(name)?;
        let mut command = self.command(&self.program);
        command
            .args([name, "run", "-config"])
            .arg(&config)
            .arg("-addressFile")
            .arg(&addresses)
            .args(more);
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn();
        let child = child.with_context(|| format!("starting the {name}"))?;
        let pid = child.id().unwrap_or_default();
        self.daemons.push(Daemon { name, child });
        let deadline = self.deadline;
        let written = deadline
            .wait(
                &format!("the {name} to serve"),
                self.appears(name, &addresses),
            )
            .await??;
        Ok((pid, written))
    }

    /// Waits until a daemon has written its address file.
    async fn appears(&mut self, name: &str, file: &Path) -> anyhow::Result<String> {
        let daemon = self
            .daemons
            .iter_mut()
            .find(|daemon| daemon.name == name)
            .context("it was never started")?;
        loop {
            if let Ok(written) = std::fs::read_to_string(file) {
                return Ok(written);
            }
            if let Some(status) = daemon.child.try_wait()? {
                bail!("the {name} ended with {status} before it served");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Runs a verb of the server's command line, as the program `countersign-demo server`.
    pub(crate) async fn server_cli(&self, args: &[&str]) -> anyhow::Result<Ran> {
        let mut command = self.command(&self.program);
        command
            .arg("server")
            .args(args)
            .env(SERVER_SOCKET_VARIABLE, self.server_socket());
        self.run(command, args).await
    }

    /// Runs a verb of the node agent's command line, as the program `countersign-demo agent`.
    pub(crate) async fn agent_cli(&self, args: &[&str]) -> anyhow::Result<Ran> {
        let mut command = self.command(&self.program);
        command.arg("agent").args(args);
        self.run(command, args).await
    }

    async fn run(&self, mut command: Command, args: &[&str]) -> anyhow::Result<Ran> {
        let what = args.join(" ");
        let output = command.stdin(Stdio::null()).output();
        let output = self
            .deadline
            .wait(&format!("{what:?} to end"), output)
            .await?;
        let output = output.with_context(|| format!("running {what:?}"))?;
        Ok(Ran {
            status: output.status,
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Starts a workload under its own name, with pipes for orders and events.
    pub(crate) fn start_role(&self, name: Name) -> anyhow::Result<Child> {
        let program = self.path(name.as_str());
        let mut command = self.command(&program);
        command.args(["role", name.as_str()]);
        command
            .env(ENDPOINT_VARIABLE, self.endpoint())
            .env(POLICY_VARIABLE, self.path("mesh.hcl"));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(self.log(name.as_str())?);
        command.spawn().with_context(|| {
            format!(
                "starting {}; if its file system forbids that, set TMPDIR to a folder with a short path where programs \
                 may run",
                program.display()
            )
        })
    }

    /// A command that ends with the show, and not by what is typed at the terminal.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env(OF_THE_SHOW, "1")
            .current_dir(self.folder())
            .kill_on_drop(true)
            .process_group(0);
        command
    }

    fn log(&self, name: &str) -> anyhow::Result<File> {
        let path = self.path(&format!("{name}.log"));
        File::create(&path).with_context(|| format!("making {}", path.display()))
    }

    /// The last lines of every log, by name.
    pub(crate) fn log_tails(&self, lines: usize) -> Vec<(String, Vec<String>)> {
        let names = ["server", "agent"]
            .into_iter()
            .chain(Name::ALL.map(Name::as_str));
        let tails = names.filter_map(|name| {
            let text = std::fs::read(self.path(&format!("{name}.log"))).ok()?;
            let text = String::from_utf8_lossy(&text);
            let all: Vec<_> = text.lines().map(str::to_owned).collect();
            let tail = all
                .iter()
                .skip(all.len().saturating_sub(lines))
                .cloned()
                .collect::<Vec<_>>();
            (!tail.is_empty()).then(|| (name.to_owned(), tail))
        });
        tails.collect()
    }

    /// Ends the daemons in order, the last one first, and removes the folder.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        while let Some(mut daemon) = self.daemons.pop() {
            end(&mut daemon.child)
                .await
                .with_context(|| format!("ending the {}", daemon.name))?;
        }
        let path = self.folder().to_owned();
        self.folder
            .close()
            .with_context(|| format!("removing {}", path.display()))
    }
}

impl Ran {
    /// What it printed, if it ended well.
    pub(crate) fn succeeded(self, what: &str) -> anyhow::Result<String> {
        ensure!(
            self.status.success(),
            "{what:?} ended with {}: {}{}",
            self.status,
            self.out,
            self.err
        );
        Ok(self.out)
    }
}

async fn end(child: &mut Child) -> anyhow::Result<()> {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        kill(Pid::from_raw(pid), Signal::SIGTERM)?;
    }
    if tokio::time::timeout(ENDING, child.wait()).await.is_err() {
        child.kill().await?;
    }
    Ok(())
}

/// A short folder in the system's temporary one, or in `/tmp` where that has a long name.
fn folder() -> anyhow::Result<TempDir> {
    let root = Some(std::env::temp_dir()).filter(|root| root.as_os_str().len() <= LONGEST_ROOT);
    let root = root.unwrap_or_else(|| PathBuf::from("/tmp"));
    let folder = tempfile::Builder::new()
        .prefix("countersign-")
        .rand_bytes(6)
        .tempdir_in(&root);
    folder.with_context(|| {
        format!(
            "making a folder in {}; set TMPDIR to another place",
            root.display()
        )
    })
}

/// Another name for the same program, which the unix attestor tells apart by its path; a copy where no link can be made.
fn link_or_copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if std::fs::hard_link(from, to).is_err() {
        std::fs::copy(from, to)
            .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

/// The network address in an address file.
fn tcp(written: &str) -> anyhow::Result<SocketAddr> {
    let address = written.lines().find_map(|line| line.strip_prefix("tcp="));
    Ok(address
        .with_context(|| format!("no address in {written:?}"))?
        .parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_file_has_the_address() {
        assert_eq!(tcp("unix=/a\ntcp=127.0.0.1:81\n").unwrap().port(), 81);
        assert!(tcp("unix=/a\n").is_err() && tcp("tcp=here\n").is_err());
    }

    #[test]
    fn a_copy_has_another_path_and_the_same_content() {
        let folder = folder().unwrap();
        let (from, to) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&from, "program").unwrap();
        link_or_copy(&from, &to).unwrap();
        assert_eq!(std::fs::read_to_string(&to).unwrap(), "program");
        assert!(link_or_copy(&folder.path().join("none"), &folder.path().join("c")).is_err());
    }
}
