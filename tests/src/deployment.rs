//! A whole installation in a folder: a server, a node agent, and workloads with entries.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{self, PATIENCE, Process, Ran};
use crate::scripted_workload::ScriptedWorkload;
use countersign_attacker::Attacker;

/// The trust domain of deployments that don't say otherwise.
pub const TRUST_DOMAIN: &str = "ai-agents.org";

/// Lines for [`Settings::agent`]: ask the server for changes every second.
pub const FAST_SYNC: &str = "  experimental {\n    sync_interval = \"1s\"\n  }";

/// A server and a node agent as processes. Everything ends with it.
#[derive(Debug)]
pub struct Deployment {
    program: PathBuf,
    folder: TempDir,
    settings: Settings,
    server_plugins: String,
    /// The server, while it runs.
    pub server: Option<Process>,
    /// The node agent, while it runs.
    pub agent: Option<Process>,
    /// Where the server listens for node agents.
    pub server_address: Option<SocketAddr>,
    /// Where the server's bundle endpoint is, if it has one.
    pub bundle_endpoint: Option<SocketAddr>,
}

/// What a deployment does differently from the defaults; lines of configuration go in as they are.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The trust domain; [`TRUST_DOMAIN`] if it is empty.
    pub trust_domain: String,
    /// The server's environment, besides what it inherits.
    pub server_env: Vec<(String, String)>,
    /// The node agent's environment, besides what it inherits.
    pub agent_env: Vec<(String, String)>,
    /// Lines for the `server` section.
    pub server: String,
    /// Lines for the `agent` section.
    pub agent: String,
    /// Sections of both files, beside those that are there.
    pub sections: String,
    /// What both daemons log; `DEBUG` if it is empty.
    pub log_level: String,
}

/// A workload that is registered by the path of its executable.
#[derive(Debug)]
pub struct Workload {
    /// Its SPIFFE ID.
    pub id: String,
    /// Its own link to the program.
    pub program: PathBuf,
}

impl Deployment {
    /// Folder and configuration; nothing runs yet.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn new(program: &str, settings: Settings) -> anyhow::Result<Self> {
        let folder = process::short_folder()?;
        Ok(Self {
            program: program.into(),
            folder,
            settings,
            server_plugins: String::new(),
            server: None,
            agent: None,
            server_address: None,
            bundle_endpoint: None,
        })
    }

    /// A running server with a running node agent.
    ///
    /// # Errors
    /// One of them does not start.
    pub async fn start(program: &str, settings: Settings) -> anyhow::Result<Self> {
        let mut deployment = Self::new(program, settings)?;
        deployment.start_both().await?;
        Ok(deployment)
    }

    /// With lines for the server's `plugins` section.
    #[must_use]
    pub fn with_server_plugins(mut self, lines: String) -> Self {
        self.server_plugins = lines;
        self
    }

    /// Starts the server, and a node agent with a token from it.
    ///
    /// # Errors
    /// One of them does not start.
    pub async fn start_both(&mut self) -> anyhow::Result<()> {
        self.start_server().await?;
        let token = self.token(None).await?;
        self.start_agent(Some(&token)).await
    }

    /// The folder that holds everything.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The server's socket for admins.
    #[must_use]
    pub fn server_socket(&self) -> PathBuf {
        self.folder().join("server").join("api.sock")
    }

    /// The node agent's Workload API socket.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.folder().join("agent").join("api.sock")
    }

    /// The Workload API's address as clients take it from `SPIFFE_ENDPOINT_SOCKET`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.agent_socket().display())
    }

    /// Starts the server, on the port that it had before if it ran before.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_server(&mut self) -> anyhow::Result<()> {
        let config = self.folder().join("server.conf");
        std::fs::write(&config, self.server_config())?;
        let addresses = self.folder().join("server.addr");
        let _ = std::fs::remove_file(&addresses);
        let args = [
            "server",
            "run",
            "-config",
            text(&config)?,
            "-addressFile",
            text(&addresses)?,
        ];
        let env = pairs(&self.settings.server_env);
        let mut server = Process::start("server", &self.program, &args, &env)?;
        let written = server.wrote(&addresses).await?;
        self.server_address = Some(tcp_address(&written)?);
        self.bundle_endpoint = tcp_addresses(&written)?.get(1).copied();
        self.server = Some(server);
        Ok(())
    }

    /// The trust domain's name.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        match self.settings.trust_domain.as_str() {
            "" => TRUST_DOMAIN,
            name => name,
        }
    }

    fn log_level(&self) -> &str {
        match self.settings.log_level.as_str() {
            "" => "DEBUG",
            level => level,
        }
    }

    fn server_config(&self) -> String {
        let port = self.server_address.map_or(0, |a| a.port());
        format!(
            r#"server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  trust_domain = "{trust_domain}"
  data_dir = "{folder}/server"
  socket_path = "{socket}"
  log_level = "{level}"
  ratelimit {{
    attestation = false
  }}
{extra}
}}
plugins {{
  DataStore "sql" {{
    plugin_data {{
      database_type = "sqlite3"
      connection_string = "{folder}/server/datastore.sqlite3"
    }}
  }}
  KeyManager "disk" {{
    plugin_data {{
      keys_path = "{folder}/server/keys.json"
    }}
  }}
  NodeAttestor "join_token" {{
    plugin_data {{}}
  }}
{plugins}
}}
{sections}
"#,
            level = self.log_level(),
            trust_domain = self.trust_domain(),
            sections = self.settings.sections,
            folder = self.folder().display(),
            socket = self.server_socket().display(),
            extra = self.settings.server,
            plugins = self.server_plugins,
        )
    }

    /// Starts the node agent, with a join token if it needs one.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_agent(&mut self, token: Option<&str>) -> anyhow::Result<()> {
        let mut agent = self.spawn_agent(token).await?;
        agent.wrote(&self.folder().join("agent.addr")).await?;
        self.agent = Some(agent);
        Ok(())
    }

    /// Starts the node agent's process without waiting for it to serve.
    ///
    /// # Errors
    /// The process cannot be started.
    pub async fn spawn_agent(&self, token: Option<&str>) -> anyhow::Result<Process> {
        let bundle = self.folder().join("bundle.pem");
        if !bundle.exists() {
            let shown = self.server_cli(&["bundle", "show"]).await?;
            std::fs::write(&bundle, succeeded("bundle show", shown)?)?;
        }
        let config = self.folder().join("agent.conf");
        std::fs::write(&config, self.agent_config()?)?;
        let addresses = self.folder().join("agent.addr");
        let _ = std::fs::remove_file(&addresses);
        let mut args = vec![
            "agent",
            "run",
            "-config",
            text(&config)?,
            "-addressFile",
            text(&addresses)?,
        ];
        args.extend(token.iter().flat_map(|token| ["-joinToken", token]));
        let env = pairs(&self.settings.agent_env);
        Process::start("agent", &self.program, &args, &env)
    }

    fn agent_config(&self) -> anyhow::Result<String> {
        let port = self
            .server_address
            .context("the server was never started")?
            .port();
        Ok(format!(
            r#"agent {{
  data_dir = "{folder}/agent"
  log_level = "{level}"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{socket}"
  trust_bundle_path = "{folder}/bundle.pem"
  trust_domain = "{trust_domain}"
{extra}
}}
plugins {{
  KeyManager "disk" {{
    plugin_data {{
      directory = "{folder}/agent"
    }}
  }}
  NodeAttestor "join_token" {{
    plugin_data {{}}
  }}
  WorkloadAttestor "unix" {{
    plugin_data {{
      discover_workload_path = true
    }}
  }}
}}
{sections}
"#,
            level = self.log_level(),
            trust_domain = self.trust_domain(),
            sections = self.settings.sections,
            folder = self.folder().display(),
            socket = self.agent_socket().display(),
            extra = self.settings.agent,
        ))
    }

    /// Runs a verb of the server's CLI against this server.
    ///
    /// # Errors
    /// It cannot be run, or does not end.
    pub async fn server_cli(&self, args: &[&str]) -> anyhow::Result<Ran> {
        let socket = self.server_socket();
        let mut all = vec!["server"];
        all.extend(args);
        all.extend(["-socketPath", text(&socket)?]);
        process::run(&self.program, &all, &[]).await
    }

    /// Runs a verb of the node agent's CLI against this node agent.
    ///
    /// # Errors
    /// It cannot be run, or does not end.
    pub async fn agent_cli(&self, args: &[&str]) -> anyhow::Result<Ran> {
        let socket = self.agent_socket();
        let mut all = vec!["agent"];
        all.extend(args);
        all.extend(["-socketPath", text(&socket)?]);
        process::run(&self.program, &all, &[]).await
    }

    /// Makes a join token, with an alias ID for the node if one is given.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn token(&self, id: Option<&str>) -> anyhow::Result<String> {
        let mut args = vec!["token", "generate"];
        args.extend(id.iter().flat_map(|id| ["-spiffeID", id]));
        let printed = succeeded("token generate", self.server_cli(&args).await?)?;
        let token = printed
            .lines()
            .find_map(|line| line.strip_prefix("Token: "))
            .context("no token was printed")?;
        Ok(token.to_owned())
    }

    /// The ID of the only node agent.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub async fn agent_id(&self) -> anyhow::Result<String> {
        let shown = self
            .server_cli(&["agent", "list", "-output", "json"])
            .await?;
        let list: Value = serde_json::from_str(&succeeded("agent list", shown)?)?;
        let agents = list
            .get("agents")
            .and_then(Value::as_array)
            .context("no list of agents")?;
        let [agent] = agents.as_slice() else {
            bail!("one node agent was expected: {list}")
        };
        let part = |name| {
            agent
                .pointer(&format!("/id/{name}"))
                .and_then(Value::as_str)
        };
        let (Some(domain), Some(path)) = (part("trust_domain"), part("path")) else {
            bail!("a node agent without an ID: {agent}");
        };
        Ok(format!("spiffe://{domain}{path}"))
    }

    /// Registers a workload by the path of its own link to the program.
    ///
    /// # Errors
    /// The link cannot be made, or the server refuses.
    pub async fn register(&self, path: &str, extra: &[&str]) -> anyhow::Result<Workload> {
        let id = format!("spiffe://{}{path}", self.trust_domain());
        let program = self.folder().join(format!("w{}", path.replace('/', "-")));
        link_or_copy(&self.program, &program)?;
        self.entry(&id, &program, extra).await?;
        Ok(Workload { id, program })
    }

    /// Creates an entry for the program at this path.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn entry(&self, id: &str, program: &Path, extra: &[&str]) -> anyhow::Result<()> {
        let selector = format!("unix:path:{}", program.display());
        let parent = self.agent_id().await?;
        let mut args = vec!["entry", "create", "-spiffeID", id, "-parentID", &parent];
        args.extend(["-selector", &selector]);
        args.extend(extra);
        succeeded("entry create", self.server_cli(&args).await?)?;
        Ok(())
    }

    /// Starts a registered workload that links the library, with the policy of [`Deployment::write_policy`].
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_workload(&self, workload: &Workload, args: &[&str]) -> anyhow::Result<Process> {
        let endpoint = self.endpoint();
        let policy = self.policy_path();
        let env = [
            ("SPIFFE_ENDPOINT_SOCKET", endpoint.as_str()),
            ("COUNTERSIGN_POLICY", text(&policy)?),
        ];
        let mut all = vec!["workload"];
        all.extend(args);
        Process::start(&workload.id, &workload.program, &all, &env)
    }

    /// Registers and starts a scripted workload, and waits until it serves.
    ///
    /// # Errors
    /// It does not start.
    pub async fn scripted_workload(
        &self,
        path: &str,
        extra: &[&str],
    ) -> anyhow::Result<ScriptedWorkload> {
        let workload = self.register(path, extra).await?;
        let addresses = self
            .folder()
            .join(format!("w{}.addr", path.replace('/', "-")));
        let mut process = self.start_workload(&workload, &["--addressFile", text(&addresses)?])?;
        let address = tcp_address(&process.wrote(&addresses).await?)?.to_string();
        Ok(ScriptedWorkload::new(workload.id, address, process))
    }

    /// Registers this very process under another ID, and joins as an attacker.
    ///
    /// # Errors
    /// The server or the node agent refuse.
    pub async fn attacker(&self, path: &str) -> anyhow::Result<Attacker> {
        let id = format!("spiffe://{}{path}", self.trust_domain());
        let this = std::env::current_exe()?;
        self.entry(&id, &this, &[]).await?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match Attacker::join(&self.endpoint(), &id).await {
                Ok(attacker) => return Ok(attacker),
                Err(error) if tokio::time::Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    }

    /// Where the mesh policy lies.
    #[must_use]
    pub fn policy_path(&self) -> PathBuf {
        self.folder().join("mesh.hcl")
    }

    /// Writes the mesh policy in one step.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_policy(&self, policy: &str) -> anyhow::Result<()> {
        let next = self.folder().join("mesh.hcl.next");
        std::fs::write(&next, policy)?;
        Ok(std::fs::rename(next, self.policy_path())?)
    }

    /// Waits until `api fetch x509` run as this workload is given its SVID.
    ///
    /// # Errors
    /// That does not happen in time.
    pub async fn fetched(&self, workload: &Workload) -> anyhow::Result<String> {
        let socket = self.agent_socket();
        let args = [
            "agent",
            "api",
            "fetch",
            "x509",
            "-socketPath",
            text(&socket)?,
        ];
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let ran = process::run(&workload.program, &args, &[]).await?;
            if ran.status.success() && ran.stdout.contains(&workload.id) {
                return Ok(ran.stdout);
            }
            if tokio::time::Instant::now() > deadline {
                bail!(
                    "{} was not served: {} {}",
                    workload.id,
                    ran.stdout,
                    ran.stderr
                );
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

fn pairs(env: &[(String, String)]) -> Vec<(&str, &str)> {
    env.iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

/// The standard output of a command that must have succeeded.
///
/// # Errors
/// It did not.
pub fn succeeded(what: &str, ran: Ran) -> anyhow::Result<String> {
    let Ran {
        status,
        stdout,
        stderr,
    } = ran;
    ensure!(
        status.success(),
        "{what} ended with {status}: {stdout}{stderr}"
    );
    Ok(stdout)
}

/// The first TCP address of an address file.
///
/// # Errors
/// There is none.
pub fn tcp_address(written: &str) -> anyhow::Result<SocketAddr> {
    let addresses = tcp_addresses(written)?;
    addresses
        .first()
        .copied()
        .context("no tcp line in the address file")
}

/// The TCP addresses of an address file, in its order.
fn tcp_addresses(written: &str) -> anyhow::Result<Vec<SocketAddr>> {
    let addresses = written.lines().filter_map(|line| line.strip_prefix("tcp="));
    addresses.map(|text| Ok(text.parse()?)).collect()
}

/// A hard link, or a copy where the file systems differ: another path for the unix attestor, the same program.
///
/// # Errors
/// Neither works.
pub fn link_or_copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if to.exists() || std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    std::fs::copy(from, to)?;
    Ok(())
}

/// A path as text.
///
/// # Errors
/// It is not UTF-8.
pub fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// An `allow` rule.
pub fn allow(policy: &mut String, name: &str, from: &str, to: &str, more: &str) {
    let _ = writeln!(
        policy,
        "allow \"{name}\" {{\n  from = [\"{from}\"]\n  to = [\"{to}\"]\n  actions = [\"POST /**\"]\n{more}\n}}"
    );
}
