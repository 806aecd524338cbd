//! A running peer, spoken to by lines.

use anyhow::{Context as _, ensure};
use countersign_tests::deployment::{Deployment, TRUST_DOMAIN};
use countersign_tests::process::Process;

use crate::tool::Tool;

/// A workload of another make.
pub(crate) struct Peer {
    pub(crate) id: String,
    pub(crate) address: String,
    process: Process,
    answers: usize,
}

impl Peer {
    /// Registers the program by its path, starts it, and waits until it has its SVID and serves.
    pub(crate) async fn start(deployment: &Deployment, tool: &Tool) -> anyhow::Result<Self> {
        let id = format!("spiffe://{TRUST_DOMAIN}/{}", tool.name);
        deployment.entry(&id, &tool.program, &[]).await?;
        let endpoint = deployment.endpoint();
        let env = [("SPIFFE_ENDPOINT_SOCKET", endpoint.as_str())];
        let mut process = Process::start(tool.name, &tool.program, &tool.args, &env)?;
        let ready = process.line("ready ").await?;
        let mut words = ready.split(' ').skip(1);
        let (has, port) = (words.next(), words.next());
        ensure!(
            has == Some(&id),
            "{} is not ready as {id}: {ready}",
            tool.name
        );
        let address = format!("127.0.0.1:{}", port.context("no port")?);
        Ok(Self {
            id,
            address,
            process,
            answers: 0,
        })
    }

    /// The answer to one line.
    pub(crate) async fn ask(&mut self, line: &str) -> anyhow::Result<String> {
        self.process.enter(line).await?;
        self.answers += 1;
        self.process
            .answer(
                &["serial ", "called ", "jwt ", "bundle ", "failed "],
                self.answers,
            )
            .await
    }

    /// The serial number of its present X.509-SVID.
    pub(crate) async fn serial(&mut self) -> anyhow::Result<String> {
        self.ask("serial").await
    }

    /// Calls another peer, which must tell it its own name.
    pub(crate) async fn calls(&mut self, address: &str, id: &str) -> anyhow::Result<()> {
        let answer = self.ask(&format!("call {address} {id}")).await?;
        ensure!(
            answer == format!("called you are {}", self.id),
            "{} called {id}: {answer}",
            self.id
        );
        Ok(())
    }
}
