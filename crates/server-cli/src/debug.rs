//! `debug getinfo`.

use std::time::Duration;

use clap::Subcommand;
use countersign_daemon::cli::Printer;
use countersign_proto::spire::api::server::debug::v1::{GetInfoRequest, GetInfoResponse};

use crate::client::CallFlags;
use crate::error::CommandError;
use crate::{flag, json};

/// Verbs that help to find a fault.
#[derive(Debug, Subcommand)]
pub(crate) enum DebugVerb {
    /// Prints debug information about the server
    #[command(after_help = "Example:\n  countersign-server debug getinfo -output json")]
    Getinfo(CallFlags),
}

impl DebugVerb {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let Self::Getinfo(flags) = self;
        let client = flags.connect().await?;
        let info = client
            .call(client.debug().get_info(GetInfoRequest {}))
            .await?;
        if flags.json() {
            return Ok(json::print(printer, &info)?);
        }
        print(printer, &info);
        Ok(())
    }
}

fn print(printer: &mut Printer, info: &GetInfoResponse) {
    let uptime = u64::try_from(info.uptime).unwrap_or_default();
    printer.line("Server Debug Info:");
    let mut field = |name: &str, value: String| {
        let name = format!("{name}:");
        printer.line(format_args!("  {name:<25}{value}"));
    };
    field("Uptime", go_duration(Duration::from_secs(uptime)));
    field("Registered Agents", info.agents_count.to_string());
    field("Registration Entries", info.entries_count.to_string());
    field(
        "Federated Bundles",
        info.federated_bundles_count.to_string(),
    );
    if info.svid_chain.is_empty() {
        return;
    }
    printer.line("  SVID Chain:");
    for (place, cert) in info.svid_chain.iter().enumerate() {
        let id = cert
            .id
            .as_ref()
            .map_or_else(|| "(none)".to_owned(), |id| flag::id_text(Some(id)));
        printer.line(format_args!("    [{place}] SPIFFE ID:  {id}"));
        printer.line(format_args!("        Subject:    {}", cert.subject));
        let expires = flag::rfc3339(cert.expires_at);
        printer.line(format_args!("        Expires At: {expires}"));
    }
}

/// A duration in whole seconds as Go prints it: `1h2m3s`, beginning with the first unit that is not zero.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}h{minutes}m{seconds}s")
    } else if minutes > 0 {
        format!("{minutes}m{seconds}s")
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_look_as_go_prints_them() {
        let shown = |secs| go_duration(Duration::from_secs(secs));
        assert_eq!(
            [0, 59, 60, 3600, 90_061].map(shown),
            ["0s", "59s", "1m0s", "1h0m0s", "25h1m1s"]
        );
    }
}
