//! A server, a node agent, and programs with entries to run as workloads.

use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_agent::workload_client::WorkloadClient;
use countersign_proto::spire::api::server::entry::v1 as entry;
use countersign_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use countersign_proto::spire::api::types;
use countersign_tests::deployment::{Deployment, Settings};
use countersign_tests::process::Process;
use countersign_transport::dial::UnixConnector;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::Figures;

/// The path of the ID that all workloads have.
pub(super) const EVERYBODY: &str = "/everybody";

/// The path of the ID that one process has besides.
pub(super) fn group(number: usize) -> String {
    format!("/group-{number}")
}

/// Everything that runs.
pub(super) struct Stage {
    pub(super) deployment: Deployment,
    /// The node agent's.
    pub(super) agent: Figures,
    programs: Vec<PathBuf>,
    entries: EntryClient<Channel>,
}

impl Stage {
    pub(super) async fn new(processes: usize) -> Self {
        let settings = Settings {
            log_level: "WARN".to_owned(),
            ..Settings::default()
        };
        let deployment = Deployment::start(env!("CARGO_BIN_EXE_node"), settings)
            .await
            .expect("a server and a node agent");
        let admin = Endpoint::from_static("http://localhost")
            .connect_with_connector(UnixConnector::new(deployment.server_socket()))
            .await
            .expect("the admin socket");
        let own = std::env::current_exe().expect("this program");
        let programs = (0..processes).map(|number| {
            let program = deployment.folder().join(format!("w{number}"));
            if std::fs::hard_link(&own, &program).is_err() {
                std::fs::copy(&own, &program).expect("a copy of this program");
            }
            program
        });
        let mut stage = Self {
            programs: programs.collect(),
            agent: Figures::of(deployment.agent.as_ref().expect("a node agent")),
            entries: EntryClient::new(admin),
            deployment,
        };
        stage.register().await;
        stage.synced().await;
        stage
    }

    async fn register(&mut self) {
        let parent = self.deployment.agent_id().await.expect("a node agent");
        let (_, parent) = parent.split_at("spiffe://".len() + self.deployment.trust_domain().len());
        let user = format!("uid:{}", nix::unistd::geteuid());
        let everybody = self.entry(EVERYBODY, parent, user);
        let groups = self.programs.iter().enumerate().map(|(number, program)| {
            self.entry(
                &group(number),
                parent,
                format!("path:{}", program.display()),
            )
        });
        let request = entry::BatchCreateEntryRequest {
            entries: std::iter::once(everybody).chain(groups).collect(),
            output_mask: None,
        };
        let made = self
            .entries
            .batch_create_entry(request)
            .await
            .expect("entries");
        for result in made.into_inner().results {
            assert_eq!(result.status.expect("a status").code, 0, "an entry");
        }
    }

    /// Waits until the node agent has the entries, all of which came in one change.
    async fn synced(&self) {
        let socket = self.deployment.agent_socket();
        loop {
            let mut client = WorkloadClient::connect(&socket)
                .await
                .expect("a connection");
            let mut answers = client.x509_svids().await.expect("a stream");
            match answers.message().await {
                Ok(answer) => return drop(answer.expect("an answer")),
                Err(status) => assert_eq!(status.code(), Code::PermissionDenied, "{status}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn entry(&self, path: &str, parent: &str, unix: String) -> types::Entry {
        types::Entry {
            spiffe_id: self.id(path),
            parent_id: self.id(parent),
            selectors: vec![types::Selector {
                r#type: "unix".to_owned(),
                value: unix,
            }],
            ..Default::default()
        }
    }

    fn id(&self, path: &str) -> Option<types::Spiffeid> {
        Some(types::Spiffeid {
            trust_domain: self.deployment.trust_domain().to_owned(),
            path: path.to_owned(),
        })
    }

    /// Gives the entry with this ID another lifetime, so that a new SVID is signed for it.
    pub(super) async fn renew(&self, path: &str) {
        let mut client = self.entries.clone();
        let filter = entry::list_entries_request::Filter {
            by_spiffe_id: self.id(path),
            ..Default::default()
        };
        let request = entry::ListEntriesRequest {
            filter: Some(filter),
            ..Default::default()
        };
        let found = client
            .list_entries(request)
            .await
            .expect("entries")
            .into_inner();
        let mut changed = found.entries.into_iter().next().expect("an entry");
        changed.x509_svid_ttl = 1_800;
        let mask = types::EntryMask {
            x509_svid_ttl: true,
            ..Default::default()
        };
        let request = entry::BatchUpdateEntryRequest {
            entries: vec![changed],
            input_mask: Some(mask),
            output_mask: None,
        };
        let updated = client
            .batch_update_entry(request)
            .await
            .expect("an update")
            .into_inner();
        for result in updated.results {
            assert_eq!(result.status.expect("a status").code, 0, "an update");
        }
    }

    pub(super) const fn processes(&self) -> usize {
        self.programs.len()
    }

    /// All workloads, with the Workload API's socket.
    pub(super) fn workloads(&self, verb: &str, args: &[&str]) -> Vec<Process> {
        let socket = self.deployment.agent_socket();
        (0..self.processes())
            .map(|number| self.workload(number, verb, &socket, args))
            .collect()
    }

    /// One of them.
    pub(super) fn workload(
        &self,
        number: usize,
        verb: &str,
        socket: &Path,
        args: &[&str],
    ) -> Process {
        let program = self.programs.get(number).expect("a program");
        let mut all = vec![verb, socket.to_str().expect("a path in UTF-8")];
        all.extend(args);
        Process::start(&format!("workload {number}"), program, &all, &[]).expect("a workload")
    }
}
