//! A folder with everything in it, the two daemons, and the commands that are run against them. Each process is this
//! very program under another name.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use countersign::{ENDPOINT_VARIABLE, POLICY_VARIABLE};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::script::{Name, PART_OF_SHOW};

/// Names the server's socket to its command line.
pub(crate) const SERVER_SOCKET_VARIABLE: &str = "SPIRE_SERVER_PRIVATE_SOCKET";

/// A socket's path has at most 107 bytes; the longest name in the folder takes some of them.
const LONGEST_ROOT: usize = 60;
/// How long a daemon may take to stop.
const STOPPING: Duration = Duration::from_secs(5);
/// How often the address file of a starting daemon is looked for.
const POLL: Duration = Duration::from_millis(10);
/// How many lines of each log are shown when something fails.
const TAIL: usize = 10;

/// Everything but the workloads. All processes end with it.
#[derive(Debug)]
pub(crate) struct Cluster {
    folder: TempDir,
    program: PathBuf,
    daemons: Vec<Child>,
}

impl Cluster {
    /// A folder with the server's configuration, the policy, and a program for each workload; nothing runs yet.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let cluster = Self {
            folder: folder()?,
            program: std::env::current_exe().context("finding this program's own file")?,
            daemons: Vec::new(),
        };
        let config = include_str!("cluster/server.conf");
        cluster.write("server.conf", &config.replace("FOLDER", &cluster.shown("")))?;
        cluster.write("mesh.hcl", include_str!("cluster/mesh.hcl"))?;
        for name in Name::ALL {
            link_or_copy(&cluster.program, &cluster.path(name.as_str()))?;
        }
        Ok(cluster)
    }

    /// A file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its path, for people and configuration files; the folder's own without a name.
    pub(crate) fn shown(&self, name: &str) -> String {
        let path = self.path(name).display().to_string();
        path.trim_end_matches('/').to_owned()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// This program.
    pub(crate) fn program(&self) -> String {
        self.program.display().to_string()
    }

    /// The server's admin socket.
    pub(crate) fn server_socket(&self) -> String {
        self.shown("server/api.sock")
    }

    /// The Workload API's socket.
    pub(crate) fn agent_socket(&self) -> String {
        self.shown("agent/api.sock")
    }

    /// Starts the server and waits until it serves; gives its process ID and the address for node agents.
    pub(crate) async fn start_server(&mut self) -> anyhow::Result<(u32, SocketAddr)> {
        let (pid, addresses) = self.start_daemon("server", &[]).await?;
        let address = addresses.lines().find_map(|line| line.strip_prefix("tcp="));
        Ok((pid, address.context("the server has no address")?.parse()?))
    }

    /// Starts the node agent and waits until it serves workloads; gives its process ID.
    pub(crate) async fn start_agent(
        &mut self,
        server: SocketAddr,
        token: &str,
    ) -> anyhow::Result<u32> {
        let config = include_str!("cluster/agent.conf").replace("FOLDER", &self.shown(""));
        self.write(
            "agent.conf",
            &config.replace("PORT", &server.port().to_string()),
        )?;
        let (pid, _) = self.start_daemon("agent", &["-joinToken", token]).await?;
        Ok(pid)
    }

    /// Starts a daemon; gives its process ID and the content of its address file.
    async fn start_daemon(&mut self, name: &str, more: &[&str]) -> anyhow::Result<(u32, String)> {
        let (config, addresses) = (
            self.path(&format!("{name}.conf")),
            self.path(&format!("{name}.addr")),
        );
        let log = self.log(name)?;
        let mut command = self.command(&self.program);
        command.args([name, "run", "-config"]).arg(&config);
        command.arg("-addressFile").arg(&addresses).args(more);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut child = command
            .spawn()
            .with_context(|| format!("starting the {name}"))?;
        let pid = child.id().unwrap_or_default();
        let written = loop {
            if let Ok(written) = fs::read_to_string(&addresses) {
                break written;
            }
            if let Some(status) = child.try_wait()? {
                bail!("the {name} ended with {status} before it served");
            }
            tokio::time::sleep(POLL).await;
        };
        self.daemons.push(child);
        Ok((pid, written))
    }

    /// Runs a verb of the command line of `server` or `agent`.
    pub(crate) async fn run(&self, part: &str, args: &[&str]) -> anyhow::Result<Output> {
        let mut command = self.command(&self.program);
        command.arg(part).args(args).stdin(Stdio::null());
        command.env(SERVER_SOCKET_VARIABLE, self.server_socket());
        command
            .output()
            .await
            .with_context(|| format!("running {args:?}"))
    }

    /// Starts a workload under its own name, with pipes for orders and events.
    pub(crate) fn start_workload(&self, name: Name) -> anyhow::Result<Child> {
        let program = self.path(name.as_str());
        let mut command = self.command(&program);
        command.args(["workload", name.as_str()]);
        command.env(ENDPOINT_VARIABLE, format!("unix://{}", self.agent_socket()));
        command.env(POLICY_VARIABLE, self.path("mesh.hcl"));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(self.log(name.as_str())?);
        command.spawn().with_context(|| {
            format!(
                "starting {}; if programs may not run there, set TMPDIR to a folder with a short path where they may",
                program.display()
            )
        })
    }

    /// A command that ends with the show, and not by what is typed at the terminal.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env(PART_OF_SHOW, "1")
            .current_dir(self.folder.path());
        command.kill_on_drop(true).process_group(0);
        command
    }

    fn log(&self, name: &str) -> anyhow::Result<File> {
        let path = self.path(&format!("{name}.log"));
        File::create(&path).with_context(|| format!("creating {}", path.display()))
    }

    /// The last lines of each log, under its file's name.
    pub(crate) fn log_tails(&self) -> Vec<(String, String)> {
        let names = ["server", "agent"]
            .into_iter()
            .chain(Name::ALL.map(Name::as_str));
        let names = names.map(|name| format!("{name}.log"));
        let tails = names.filter_map(|name| {
            let text = fs::read(self.path(&name)).ok()?;
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(TAIL)..)?.join("\n");
            (!tail.is_empty()).then_some((name, tail))
        });
        tails.collect()
    }

    /// Stops the node agent, then the server, and removes the folder.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        while let Some(mut daemon) = self.daemons.pop() {
            if let Some(pid) = daemon.id().and_then(|pid| i32::try_from(pid).ok()) {
                kill(Pid::from_raw(pid), Signal::SIGTERM)?;
            }
            if tokio::time::timeout(STOPPING, daemon.wait()).await.is_err() {
                daemon.kill().await?;
            }
        }
        self.folder.close().context("removing the folder")
    }
}

/// A folder with a short path: in the system's temporary one, or in `/tmp` where that has a long name.
fn folder() -> anyhow::Result<TempDir> {
    let root = Some(std::env::temp_dir()).filter(|root| root.as_os_str().len() <= LONGEST_ROOT);
    let root = root.unwrap_or_else(|| PathBuf::from("/tmp"));
    let folder = tempfile::Builder::new()
        .prefix("countersign-")
        .tempdir_in(&root);
    folder.with_context(|| {
        format!(
            "making a folder in {}; set TMPDIR to another place",
            root.display()
        )
    })
}

/// The program under another path, by which the `unix` workload attestor tells the workloads apart; a copy where the file
/// system has no hard links.
fn link_or_copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).with_context(|| format!("copying to {}", to.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use countersign_mesh::Policy;

    use crate::script::{FLOOD_BURST, FLOOD_RATE};

    #[test]
    fn the_policy_has_the_rate_that_the_flood_is_checked_against() {
        let policy = include_str!("cluster/mesh.hcl");
        Policy::parse(policy).unwrap();
        let rate = format!("\"{FLOOD_RATE}/s burst {FLOOD_BURST}\"");
        assert!(policy.contains(&rate), "{rate}");
    }
}
