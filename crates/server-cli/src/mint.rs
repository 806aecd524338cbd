//! `jwt mint` and `x509 mint`: SVIDs for whoever has no node agent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use countersign_config::parse_duration;
use countersign_daemon::cli::{Output, OutputFlag, Printer};
use countersign_identity::csr::Csr;
use countersign_identity::{KeyType, PrivateKey, SpiffeId, UnixTime};
use countersign_proto::spire::api::server::bundle::v1::GetBundleRequest;
use countersign_proto::spire::api::server::svid::v1::{MintJwtsvidRequest, MintX509svidRequest};
use countersign_transport::file::{PRIVATE, PUBLIC, write_atomically};
use countersign_transport::{Clock as _, SystemClock};
use serde_json::json;

use crate::client::SocketFlag;
use crate::error::CommandError;
use crate::{flag, json, pem};

/// Verbs on JWT-SVIDs.
#[derive(Debug, Subcommand)]
pub(crate) enum JwtVerb {
    /// Mints a JWT-SVID
    #[command(after_help = "Example: a token for a script\n  \
        countersign-server jwt mint -spiffeID spiffe://example.org/script -audience https://api.example.org")]
    Mint(MintJwt),
}

/// Verbs on X.509-SVIDs.
#[derive(Debug, Subcommand)]
pub(crate) enum X509Verb {
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
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
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
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

impl JwtVerb {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let Self::Mint(mint) = self;
        mint.run(printer).await
    }
}

impl X509Verb {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let Self::Mint(mint) = self;
        mint.run(printer).await
    }
}

impl MintJwt {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let id = flag::required_id(self.spiffe_id.as_deref(), "spiffeID must be specified")?;
        if self.audience.is_empty() {
            return Err(CommandError::usage(
                "at least one audience must be specified",
            ));
        }
        let asked = Asked::new(self.ttl)?;
        let client = self.socket.connect().await?;
        let request = MintJwtsvidRequest {
            id: Some(id),
            audience: self.audience,
            ttl: asked.seconds,
        };
        let minted = client.answer(client.svid().mint_jwtsvid(request).await);
        let minted = minted.map_err(|e| e.during("unable to mint SVID"))?;
        let svid = minted.svid.as_ref().filter(|svid| !svid.token.is_empty());
        let missing = || CommandError::Answer("server response missing token".into());
        let svid = svid.ok_or_else(missing)?;
        asked.warn_of_cut(printer, "JWT-SVID", svid.expires_at);
        match &self.write {
            Some(path) => {
                save(
                    path,
                    svid.token.as_bytes(),
                    PRIVATE,
                    "unable to write token",
                )?;
                printer.line(format_args!("JWT-SVID written to {}", path.display()));
            }
            None if self.output.output == Output::Json => {
                let name = "spire.api.server.svid.v1.MintJWTSVIDResponse";
                return json::print(printer, name, &minted);
            }
            None => printer.line(&svid.token),
        }
        Ok(())
    }
}

impl MintX509 {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        flag::required_id(self.spiffe_id.as_deref(), "spiffeID must be specified")?;
        let id = SpiffeId::parse(self.spiffe_id.as_deref().unwrap_or_default());
        let id = id.map_err(|e| CommandError::usage(e.to_string()))?;
        let asked = Asked::new(self.ttl)?;
        let faulty = |e: countersign_identity::key::KeyError| {
            CommandError::usage(format!("unable to generate CSR: {e}"))
        };
        let key = PrivateKey::generate(KeyType::EcP256).map_err(faulty)?;
        let csr = Csr::make_without_subject(&key, &id, &self.dns).map_err(faulty)?;
        let client = self.socket.connect().await?;
        let request = MintX509svidRequest {
            csr: csr.into(),
            ttl: asked.seconds,
        };
        let minted = client.answer(client.svid().mint_x509svid(request).await);
        let minted = minted.map_err(|e| e.during("unable to mint SVID"))?;
        let svid = minted.svid.filter(|svid| !svid.cert_chain.is_empty());
        let missing = |what: &str| CommandError::Answer(format!("server response missing {what}"));
        let svid = svid.ok_or_else(|| missing("SVID chain"))?;
        let request = GetBundleRequest { output_mask: None };
        let bundle = client.answer(client.bundle().get_bundle(request).await);
        let bundle = bundle.map_err(|e| e.during("unable to get bundle"))?;
        if bundle.x509_authorities.is_empty() {
            return Err(missing("X509 Authorities"));
        }
        asked.warn_of_cut(printer, "X509-SVID", svid.expires_at);
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
            Some(folder) => minted.save(folder, printer),
            None if self.output.output == Output::Json => {
                minted.print_json(printer);
                Ok(())
            }
            None => {
                minted.print(printer);
                Ok(())
            }
        }
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
            .map(|der| pem::encode("CERTIFICATE", der).to_string())
            .collect()
    }

    fn key_pem(&self) -> zeroize::Zeroizing<String> {
        pem::encode("PRIVATE KEY", &self.key.to_pkcs8())
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

    /// In SPIRE's order, which no map keeps.
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
        let svid = folder.join("svid.pem");
        let chain = Self::certificates(&self.chain);
        save(&svid, chain.as_bytes(), PUBLIC, "unable to write SVID")?;
        printer.line(format_args!("X509-SVID written to {}", svid.display()));
        let key = folder.join("key.pem");
        save(
            &key,
            self.key_pem().as_bytes(),
            PRIVATE,
            "unable to write key",
        )?;
        printer.line(format_args!("Private key written to {}", key.display()));
        let bundle = folder.join("bundle.pem");
        let roots = Self::certificates(&self.roots);
        save(&bundle, roots.as_bytes(), PUBLIC, "unable to write bundle")?;
        printer.line(format_args!("Root CAs written to {}", bundle.display()));
        Ok(())
    }
}

/// The lifetime that was asked for.
struct Asked {
    ttl: Duration,
    /// Rounded up.
    seconds: i32,
    since: UnixTime,
}

impl Asked {
    fn new(ttl: Duration) -> Result<Self, CommandError> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let seconds = i32::try_from(seconds)
            .map_err(|_| CommandError::usage("invalid value for TTL: it is too long"))?;
        let since = SystemClock.now();
        Ok(Self {
            ttl,
            seconds,
            since,
        })
    }

    /// Says so on the standard error if the SVID lives shorter than was asked for.
    fn warn_of_cut(&self, printer: &mut Printer, what: &str, expires_at: i64) {
        if UnixTime::from_i64(expires_at) < self.since.after(self.ttl) {
            printer.error_text(&format!(
                "{what} lifetime was capped shorter than specified ttl; expires {:?}\n",
                flag::rfc3339(expires_at)
            ));
        }
    }
}

fn save(path: &Path, bytes: &[u8], mode: u32, failed: &str) -> Result<(), CommandError> {
    write_atomically(path, bytes, mode).map_err(|error| {
        let why = format!("{error}: {}", error.source);
        CommandError::usage(format!("{failed}: {why}"))
    })
}
