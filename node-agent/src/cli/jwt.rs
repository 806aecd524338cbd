//! `api fetch jwt` and `api validate jwt`.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use countersign_daemon::cli::{Output, OutputFlag, Printer};
use countersign_proto::spiffe::workload::{
    JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
};
use serde_json::{Value, json};
use tonic::Code;

use super::error::CommandError;
use super::socket::SocketFlag;

/// `api fetch jwt`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: a token for the service that calls itself db\n  \
    countersign-agent api fetch jwt -audience db"
)]
pub(super) struct FetchJwt {
    #[command(flatten)]
    socket: SocketFlag,
    /// Time to wait for a response
    #[arg(long, default_value = "5s", value_parser = countersign_config::parse_duration, value_name = "DURATION")]
    timeout: Duration,
    /// Comma separated list of audience values
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    audience: Vec<String>,
    /// SPIFFE ID subject (optional)
    #[arg(
        long = "spiffeID",
        default_value = "",
        hide_default_value = true,
        value_name = "ID"
    )]
    spiffe_id: String,
    /// Deprecated: use -output
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Output>,
    #[command(flatten)]
    output: OutputFlag,
}

impl FetchJwt {
    pub(super) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        if self.audience.is_empty() {
            return Err(CommandError::Answer("audience must be specified".into()));
        }
        let asked = tokio::time::timeout(self.timeout, self.ask()).await;
        let (svids, bundles) = asked.map_err(|_| CommandError::TimedOut(self.timeout))??;
        if self.format.unwrap_or(self.output.output) == Output::Json {
            printer.line(json!([svids_json(&svids), bundles_json(&bundles)]));
            return Ok(());
        }
        for svid in &svids.svids {
            printer.line(format!("token({}):\n\t{}", svid.spiffe_id, svid.svid));
            if !svid.hint.is_empty() {
                printer.line(format!("hint({}):\n\t{}", svid.spiffe_id, svid.hint));
            }
        }
        let bundles: BTreeMap<_, _> = bundles.bundles.iter().collect();
        for (trust_domain, jwks) in bundles {
            let jwks = String::from_utf8_lossy(jwks);
            printer.line(format!("bundle({trust_domain}):\n\t{jwks}"));
        }
        Ok(())
    }

    async fn ask(&self) -> Result<(JwtsvidResponse, JwtBundlesResponse), CommandError> {
        let mut client = self.socket.connect().await?;
        let mut answers = client.jwt_bundles().await?;
        let bundles = answers.message().await?.ok_or(CommandError::Ended)?;
        let request = JwtsvidRequest {
            audience: self.audience.clone(),
            spiffe_id: self.spiffe_id.clone(),
        };
        Ok((client.jwt_svids(request).await?, bundles))
    }
}

fn svids_json(response: &JwtsvidResponse) -> Value {
    let svids: Vec<_> = response
        .svids
        .iter()
        .map(|svid| json!({"spiffe_id": svid.spiffe_id, "svid": svid.svid, "hint": svid.hint}))
        .collect();
    json!({ "svids": svids })
}

fn bundles_json(response: &JwtBundlesResponse) -> Value {
    let bundles: BTreeMap<_, _> = response
        .bundles
        .iter()
        .map(|(td, jwks)| (td, STANDARD.encode(jwks)))
        .collect();
    json!({ "bundles": bundles })
}

/// `api validate`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum ValidateVerb {
    /// Validates a JWT SVID
    Jwt(ValidateJwt),
}

/// `api validate jwt`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  countersign-agent api validate jwt -audience db -svid \"$TOKEN\""
)]
pub(super) struct ValidateJwt {
    #[command(flatten)]
    socket: SocketFlag,
    /// Time to wait for a response
    #[arg(long, default_value = "5s", value_parser = countersign_config::parse_duration, value_name = "DURATION")]
    timeout: Duration,
    /// Expected audience value
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "AUDIENCE"
    )]
    audience: String,
    /// JWT SVID
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "TOKEN"
    )]
    svid: String,
    #[command(flatten)]
    output: OutputFlag,
}

impl ValidateJwt {
    pub(super) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        if self.audience.is_empty() {
            return Err(CommandError::Answer("audience must be specified".into()));
        }
        if self.svid.is_empty() {
            return Err(CommandError::Answer("svid must be specified".into()));
        }
        let request = ValidateJwtsvidRequest {
            audience: self.audience,
            svid: self.svid,
        };
        let ask = async {
            let mut client = self.socket.connect().await?;
            client.validate_jwt(request).await.map_err(not_valid)
        };
        let answer = tokio::time::timeout(self.timeout, ask)
            .await
            .map_err(|_| CommandError::TimedOut(self.timeout))??;
        let claims = object(answer.claims.unwrap_or_default());
        if self.output.output == Output::Json {
            printer.line(json!({"spiffe_id": answer.spiffe_id, "claims": claims}));
            return Ok(());
        }
        printer.line("SVID is valid.");
        printer.line(format!("SPIFFE ID : {}", answer.spiffe_id));
        printer.line(format!("Claims    : {claims}"));
        Ok(())
    }
}

fn not_valid(status: tonic::Status) -> CommandError {
    if status.code() == Code::InvalidArgument {
        return CommandError::Answer(format!("SVID is not valid: {}", status.message()));
    }
    CommandError::Answer(format!(
        "unable to validate JWT SVID: {}",
        CommandError::from(status)
    ))
}

fn object(fields: prost_types::Struct) -> Value {
    let fields = fields.fields.into_iter();
    Value::Object(fields.map(|(name, field)| (name, value(field))).collect())
}

/// As protobuf's JSON has it: whole numbers without a point.
fn value(field: prost_types::Value) -> Value {
    use prost_types::value::Kind;

    match field.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::NumberValue(number)) => {
            let text = number.to_string();
            text.parse::<i64>()
                .map_or_else(|_| number.into(), Value::from)
        }
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(value).collect(),
        Some(Kind::StructValue(inner)) => object(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_have_no_point() {
        let number = |n| {
            value(prost_types::Value {
                kind: Some(prost_types::value::Kind::NumberValue(n)),
            })
        };
        assert_eq!(number(1_800_000_000.0).to_string(), "1800000000");
        assert_eq!(number(1.5).to_string(), "1.5");
    }
}
