//! `entry create` and `entry update`.

use clap::Args;
use countersign_daemon::cli::{Output, OutputFlag, Printer};
use countersign_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchUpdateEntryRequest, GetEntryRequest,
};
use countersign_proto::spire::api::types;

use super::file;
use super::print::print_entry;
use crate::client::SocketFlag;
use crate::error::{CommandError, code_name};
use crate::flag::{self, required_id};
use crate::json;

/// The path of the server's own ID, which is the parent of entries for nodes.
const SERVER_PATH: &str = "/spire/server";

/// What an entry says, as flags.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(super) struct EntryFlags {
    /// The ID of the registration entry. On create it is optional: if not set, a new one is made
    #[arg(long = "entryID", value_name = "ID")]
    entry_id: Option<String>,
    /// The SPIFFE ID of this record's parent
    #[arg(long = "parentID", value_name = "ID")]
    parent_id: Option<String>,
    /// The SPIFFE ID that this record represents
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// A colon-delimited type:value selector. Can be used more than once
    #[arg(long = "selector", value_name = "TYPE:VALUE")]
    selectors: Vec<String>,
    /// The lifetime, in seconds, of X.509-SVIDs issued for this entry [default: the server's]
    #[arg(
        long = "x509SVIDTTL",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    x509_svid_ttl: Option<i32>,
    /// The lifetime, in seconds, of JWT-SVIDs issued for this entry [default: the server's]
    #[arg(
        long = "jwtSVIDTTL",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    jwt_svid_ttl: Option<i32>,
    /// A DNS name for the SVIDs of this entry. Can be used more than once
    #[arg(long = "dns", value_name = "NAME")]
    dns_names: Vec<String>,
    /// SPIFFE ID of a trust domain to federate with. Can be used more than once
    #[arg(long = "federatesWith", value_name = "ID")]
    federates_with: Vec<String>,
    /// Grants the SPIFFE ID in this entry access to the server's management APIs
    #[arg(long)]
    admin: bool,
    /// The entry describes a downstream server
    #[arg(long)]
    downstream: bool,
    /// When the entry is to be pruned, in seconds since the epoch [default: never]
    #[arg(long = "entryExpiry", value_name = "SECONDS")]
    entry_expiry: Option<i64>,
    /// Tells apart entries with the same SPIFFE ID
    #[arg(long, value_name = "HINT")]
    hint: Option<String>,
    /// The SVID is to be stored for the workload instead of being served to it
    #[arg(long = "storeSVID")]
    store_svid: bool,
    /// The X.509-SVID is signed only when a workload asks for it
    #[arg(long = "disableX509SVIDPrefetch")]
    disable_x509_svid_prefetch: bool,
    /// JWT-SVIDs get a unique "jti" claim and are not cached by agents
    #[arg(long = "jwtSVIDIncludeJTI")]
    jwt_svid_include_jti: bool,
    /// Path to a file with registration entries in JSON (optional); other flags are then ignored. If set to '-', read
    /// from stdin
    #[arg(long, value_name = "FILE")]
    data: Option<String>,
}

/// `entry create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    entry: EntryFlags,
    /// If set, this entry applies to matching nodes rather than to workloads
    #[arg(long)]
    node: bool,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

/// `entry update`.
#[derive(Debug, Args)]
pub(crate) struct Update {
    #[command(flatten)]
    entry: EntryFlags,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

impl EntryFlags {
    fn to_entry(&self, parent_id: types::Spiffeid) -> Result<types::Entry, CommandError> {
        Ok(types::Entry {
            id: self.entry_id.clone().unwrap_or_default(),
            spiffe_id: Some(self.spiffe_id()?),
            parent_id: Some(parent_id),
            selectors: flag::selectors(&self.selectors)?,
            x509_svid_ttl: ttl(self.x509_svid_ttl, "a positive x509-SVID TTL is required")?,
            federates_with: self.federates_with.clone(),
            admin: self.admin,
            downstream: self.downstream,
            expires_at: self.entry_expiry.unwrap_or_default(),
            dns_names: self.dns_names.clone(),
            revision_number: 0,
            store_svid: self.store_svid,
            jwt_svid_ttl: ttl(self.jwt_svid_ttl, "a positive JWT-SVID TTL is required")?,
            hint: self.hint.clone().unwrap_or_default(),
            created_at: 0,
            additional_attributes: self.has_attributes().then_some(
                types::entry::AdditionalAttributes {
                    disable_x509_svid_prefetch: self.disable_x509_svid_prefetch,
                    jwt_svid_include_jti: self.jwt_svid_include_jti,
                },
            ),
        })
    }

    fn need_selectors(&self) -> Result<(), CommandError> {
        if self.selectors.is_empty() {
            return Err(CommandError::usage("at least one selector is required"));
        }
        Ok(())
    }

    fn spiffe_id(&self) -> Result<types::Spiffeid, CommandError> {
        required_id(self.spiffe_id.as_deref(), "a SPIFFE ID is required")
    }

    const fn has_attributes(&self) -> bool {
        self.disable_x509_svid_prefetch || self.jwt_svid_include_jti
    }
}

fn ttl(secs: Option<i32>, negative: &str) -> Result<i32, CommandError> {
    match secs.unwrap_or_default() {
        secs if secs < 0 => Err(CommandError::usage(negative)),
        secs => Ok(secs),
    }
}

impl Create {
    pub(super) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let entries = match &self.entry.data {
            Some(path) => file::entries(path)?,
            None => vec![self.entry.to_entry(self.parent_id()?)?],
        };
        let client = self.socket.connect().await?;
        let request = BatchCreateEntryRequest {
            entries: entries.clone(),
            output_mask: None,
        };
        let mut response = client.answer(client.entry().batch_create_entry(request).await)?;
        for (result, asked) in response.results.iter_mut().zip(entries) {
            if failed(result.status.as_ref()) {
                result.entry = Some(asked);
            }
        }
        if self.output.output == Output::Json {
            return json::print(
                printer,
                "spire.api.server.entry.v1.BatchCreateEntryResponse",
                &response,
            );
        }
        let results = response.results.into_iter().map(|r| (r.status, r.entry));
        tell(printer, results, "create")
    }

    fn parent_id(&self) -> Result<types::Spiffeid, CommandError> {
        let flags = &self.entry;
        flags.need_selectors()?;
        if self.node {
            if !flags.federates_with.is_empty() {
                return Err(CommandError::usage("node entries can not federate"));
            }
            return Ok(types::Spiffeid {
                path: SERVER_PATH.into(),
                ..flags.spiffe_id()?
            });
        }
        required_id(
            flags.parent_id.as_deref(),
            "a parent ID is required if the node flag is not set",
        )
    }
}

impl Update {
    pub(super) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let mut entries = match &self.entry.data {
            Some(path) => file::entries(path)?,
            None => vec![self.entry()?],
        };
        let client = self.socket.connect().await?;
        if let [entry] = entries.as_mut_slice()
            && self.entry.data.is_none()
            && self.entry.has_attributes()
        {
            // The API replaces the attributes as a whole; the flags set one or the other.
            let request = GetEntryRequest {
                id: entry.id.clone(),
                output_mask: None,
            };
            let present = client.answer(client.entry().get_entry(request).await);
            let present = present.map_err(|e| {
                e.during("failed to fetch existing entry to merge additional attributes")
            })?;
            keep_attributes(entry, present.additional_attributes.unwrap_or_default());
        }
        let request = BatchUpdateEntryRequest {
            entries: entries.clone(),
            input_mask: None,
            output_mask: None,
        };
        let mut response = client.answer(client.entry().batch_update_entry(request).await)?;
        for (result, asked) in response.results.iter_mut().zip(entries) {
            if failed(result.status.as_ref()) {
                result.entry = Some(asked);
            }
        }
        if self.output.output == Output::Json {
            return json::print(
                printer,
                "spire.api.server.entry.v1.BatchUpdateEntryResponse",
                &response,
            );
        }
        let results = response.results.into_iter().map(|r| (r.status, r.entry));
        tell(printer, results, "update")
    }

    fn entry(&self) -> Result<types::Entry, CommandError> {
        if self
            .entry
            .entry_id
            .as_deref()
            .unwrap_or_default()
            .is_empty()
        {
            return Err(CommandError::usage("entry ID is required"));
        }
        self.entry.need_selectors()?;
        let parent_id = required_id(self.entry.parent_id.as_deref(), "a parent ID is required")?;
        self.entry.to_entry(parent_id)
    }
}

fn keep_attributes(entry: &mut types::Entry, present: types::entry::AdditionalAttributes) {
    let asked = entry.additional_attributes.unwrap_or_default();
    entry.additional_attributes = Some(types::entry::AdditionalAttributes {
        disable_x509_svid_prefetch: asked.disable_x509_svid_prefetch
            || present.disable_x509_svid_prefetch,
        jwt_svid_include_jti: asked.jwt_svid_include_jti || present.jwt_svid_include_jti,
    });
}

fn failed(status: Option<&types::Status>) -> bool {
    status.is_none_or(|status| status.code != 0)
}

/// Prints what became of each entry for people, and fails if one failed. As JSON the statuses say it, and the exit code
/// doesn't: so it is with SPIRE, whose scripts read them.
fn tell(
    printer: &mut Printer,
    results: impl Iterator<Item = (Option<types::Status>, Option<types::Entry>)>,
    verb: &'static str,
) -> Result<(), CommandError> {
    let mut failures = String::new();
    for (status, entry) in results {
        let entry = print_entry(&entry.unwrap_or_default());
        if failed(status.as_ref()) {
            let status = status.unwrap_or_default();
            let code = code_name(tonic::Code::from_i32(status.code));
            failures.push_str(&format!(
                "Failed to {verb} the following entry (code: {code}, msg: {:?}):\n{entry}",
                status.message
            ));
        } else {
            printer.text(&entry);
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    printer.error_text(&failures);
    Err(CommandError::Items(match verb {
        "create" => "failed to create one or more entries",
        _ => "failed to update one or more entries",
    }))
}
