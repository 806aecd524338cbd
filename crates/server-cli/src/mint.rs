//! `jwt mint` and `x509 mint`: SVIDs for workloads that have no node agent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use countersign_config::parse_duration;
use countersign_daemon::cli::Printer;
use countersign_identity::csr::Csr;
use countersign_identity::{KeyType, PrivateKey, UnixTime};
use countersign_proto::spire::api::server::bundle::v1::GetBundleRequest;
use countersign_proto::spire::api::server::svid::v1::{MintJwtsvidRequest, MintX509svidRequest};
use countersign_transport::file::{PRIVATE, PUBLIC, write_atomically};
use countersign_transport::{Clock as _, SystemClock};
use serde_json::json;

use crate::client::CallFlags;
use crate::error::{CommandError, During as _};
use crate::flag::{self, InvalidFlag};
use crate::json::AnswerError;
use crate::{json, pem};

const ID_REQUIRED: &str = "spiffeID must be specified";

/// Verbs on JWT-SVIDs.
#[derive(Debug, Subcommand)]
pub(crate) enum MintJwtVerb {
    /// Mints a JWT-SVID
    #[command(after_help = "Example: a token for a script\n  \
        countersign-server jwt mint -spiffeID spiffe://example.org/script -audience https://api.example.org")]
    Mint(MintJwt),
}

/// Verbs on X.509-SVIDs.
#[derive(Debug, Subcommand)]
pub(crate) enum MintX509Verb {
    /// Mints an X509-SVID
    #[command(
        after_help = "Example: svid.pem, key.pem and bundle.pem in a folder\n  \
        countersign-server x509 mint -spiffeID spiffe://example.org/tool -ttl 1h -write certs"
    )]
    Mint(MintX509),
}

/// `jwt mint`.
#[derive(Debug, Args)]
pub(crate) struct MintJwt {
    /// SPIFFE ID of the JWT-SVID
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// Audience claim that will be included in the SVID. Can be used more than once.
    #[arg(long, value_name = "AUDIENCE")]
    audience: Vec<String>,
    /// TTL of the JWT-SVID, such as 10m
    #[arg(long, value_parser = parse_duration, default_value = "0", value_name = "DURATION")]
    ttl: Duration,
    /// File to write token to instead of stdout
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    #[command(flatten)]
    flags: CallFlags,
}

/// `x509 mint`.
#[derive(Debug, Args)]
pub(crate) struct MintX509 {
    /// SPIFFE ID of the X509-SVID
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// DNS name that will be included in SVID. Can be used more than once.
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// TTL of the X509-SVID, such as 10m
    #[arg(long, value_parser = parse_duration, default_value = "0", value_name = "DURATION")]
    ttl: Duration,
    /// Directory to write output to instead of stdout
    #[arg(long, value_name = "FOLDER")]
    write: Option<PathBuf>,
    #[command(flatten)]
    flags: CallFlags,
}

impl MintJwtVerb {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let Self::Mint(mint) = self;
        mint.run(printer).await
    }
}

impl MintX509Verb {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let Self::Mint(mint) = self;
        mint.run(printer).await
    }
}

impl MintJwt {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let id = flag::required_id(self.spiffe_id, ID_REQUIRED)?;
        if self.audience.is_empty() {
            return Err(CommandError::Usage(
                "at least one audience must be specified",
            ));
        }
        let asked = Lifetime::new(self.ttl)?;
        let client = self.flags.connect().await?;
        let request = MintJwtsvidRequest {
            id: Some(id),
            audience: self.audience,
            ttl: asked.seconds,
        };
        let minted = client.call(client.svid().mint_jwtsvid(request)).await;
        let minted = minted.during("unable to mint SVID")?;
        let svid = minted.svid.as_ref().filter(|svid| !svid.token.is_empty());
        let svid = svid.ok_or(AnswerError::Missing("token"))?;
        asked.warn_if_cut(printer, "JWT-SVID", svid.expires_at);
        match &self.write {
            Some(path) => {
                save(path, svid.token.as_bytes(), PRIVATE, "token")?;
                printer.line(format_args!("JWT-SVID written to {}", path.display()));
            }
            None if self.flags.json() => json::print(printer, &minted)?,
            None => printer.line(&svid.token),
        }
        Ok(())
    }
}

impl MintX509 {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let id = flag::required(self.spiffe_id, ID_REQUIRED)?;
        let id = flag::parse_id(&id)?;
        let asked = Lifetime::new(self.ttl)?;
        let key = PrivateKey::generate(KeyType::EcP256)?;
        let csr = Csr::make_without_subject(&key, &id, &self.dns)?;
        let client = self.flags.connect().await?;
        let request = MintX509svidRequest {
            csr: csr.into(),
            ttl: asked.seconds,
        };
        let minted = client.call(client.svid().mint_x509svid(request)).await;
        let svid = minted.during("unable to mint SVID")?.svid;
        let svid = svid.filter(|svid| !svid.cert_chain.is_empty());
        let svid = svid.ok_or(AnswerError::Missing("SVID chain"))?;
        let request = GetBundleRequest { output_mask: None };
        let bundle = client.call(client.bundle().get_bundle(request)).await;
        let bundle = bundle.during("unable to get bundle")?;
        if bundle.x509_authorities.is_empty() {
            return Err(AnswerError::Missing("X509 Authorities").into());
        }
        asked.warn_if_cut(printer, "X509-SVID", svid.expires_at);
        let minted = Minted {
            chain: svid.cert_chain.iter().map(AsRef::as_ref).collect(),
            key: &key,
            roots: bundle
                .x509_authorities
                .iter()
                .map(|a| a.asn1.as_ref())
                .collect(),
        };
        match &self.write {
            Some(folder) => minted.save(folder, printer)?,
            None if self.flags.json() => minted.print_json(printer),
            None => minted.print(printer),
        }
        Ok(())
    }
}

/// An X.509-SVID, and what it verifies against.
struct Minted<'a> {
    chain: Vec<&'a [u8]>,
    key: &'a PrivateKey,
    roots: Vec<&'a [u8]>,
}

impl Minted<'_> {
    fn certificates(ders: &[&[u8]]) -> String {
        ders.iter()
            .map(|der| pem::block("CERTIFICATE", der).to_string())
            .collect()
    }

    fn key_pem(&self) -> zeroize::Zeroizing<String> {
        pem::block("PRIVATE KEY", &self.key.to_pkcs8())
    }

    fn print(&self, printer: &mut Printer) {
        printer.line(format_args!(
            "X509-SVID:\n{}",
            Self::certificates(&self.chain)
        ));
        printer.line(format_args!("Private key:\n{}", *self.key_pem()));
        printer.line(format_args!(
            "Root CAs:\n{}",
            Self::certificates(&self.roots)
        ));
    }

    /// In SPIRE's order; a map would sort the members.
    fn print_json(&self, printer: &mut Printer) {
        let list = |ders: &[&[u8]]| {
            let texts: Vec<String> = ders.iter().map(|der| STANDARD.encode(der)).collect();
            json!(texts)
        };
        printer.line(format_args!(
            "{{\"x509_svid\":{},\"private_key\":\"{}\",\"root_cas\":{}}}",
            list(&self.chain),
            *zeroize::Zeroizing::new(STANDARD.encode(&*self.key.to_pkcs8())),
            list(&self.roots)
        ));
    }

    fn save(&self, folder: &Path, printer: &mut Printer) -> Result<(), CommandError> {
        let chain = Self::certificates(&self.chain);
        let roots = Self::certificates(&self.roots);
        let key = self.key_pem();
        for (file, pem, mode, what, title) in [
            ("svid.pem", chain.as_str(), PUBLIC, "SVID", "X509-SVID"),
            ("key.pem", key.as_str(), PRIVATE, "key", "Private key"),
            ("bundle.pem", roots.as_str(), PUBLIC, "bundle", "Root CAs"),
        ] {
            let path = folder.join(file);
            save(&path, pem.as_bytes(), mode, what)?;
            printer.line(format_args!("{title} written to {}", path.display()));
        }
        Ok(())
    }
}

/// The lifetime that was asked for.
struct Lifetime {
    ttl: Duration,
    /// Rounded up.
    seconds: i32,
    since: UnixTime,
}

impl Lifetime {
    fn new(ttl: Duration) -> Result<Self, InvalidFlag> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let seconds = i32::try_from(seconds).map_err(|_| InvalidFlag::Ttl)?;
        let since = SystemClock.now();
        Ok(Self {
            ttl,
            seconds,
            since,
        })
    }

    /// Says on the standard error that the SVID lives shorter than was asked for, if it does.
    fn warn_if_cut(&self, printer: &mut Printer, what: &str, expires_at: i64) {
        if UnixTime::from_i64(expires_at) < self.since.after(self.ttl) {
            printer.error_text(&format!(
                "{what} lifetime was capped shorter than specified ttl; expires {:?}\n",
                flag::rfc3339(expires_at)
            ));
        }
    }
}

fn save(path: &Path, bytes: &[u8], mode: u32, what: &'static str) -> Result<(), CommandError> {
    write_atomically(path, bytes, mode).map_err(|source| CommandError::Write { what, source })
}
