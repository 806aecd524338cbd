//! Compiles the .proto files, in pure Rust: no protoc is needed.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message as _;

const FILES: &[&str] = &[
    "spire/api/types/types.proto",
    "spire/api/server/agent/v1/agent.proto",
    "spire/api/server/entry/v1/entry.proto",
    "spire/api/server/svid/v1/svid.proto",
    "spire/api/server/bundle/v1/bundle.proto",
    "spire/api/server/trustdomain/v1/trustdomain.proto",
    "spire/api/server/localauthority/v1/localauthority.proto",
    "spire/api/server/debug/v1/debug.proto",
    "spire/api/server/logger/v1/logger.proto",
    "spire/agent/debug/v1/debug.proto",
    "spire/api/agent/delegatedidentity/v1/delegatedidentity.proto",
    "spire/api/agent/logger/v1/logger.proto",
    "workload.proto",
    "google/rpc/status.proto",
    "envoy/type/v3/semantic_version.proto",
    "envoy/config/core/v3/base.proto",
    "envoy/service/discovery/v3/discovery.proto",
    "envoy/service/secret/v3/sds.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "grpc/health/v1/health.proto",
    "countersign/store/v1/store.proto",
];

/// Messages that hold a private key, a token or a proof: `src/secret.rs` writes their `Debug`.
const SECRET: &[&str] = &[
    ".X509SVID",
    ".JWTSVID",
    ".ValidateJWTSVIDRequest",
    ".envoy.config.core.v3.DataSource",
    ".envoy.service.discovery.v3.DiscoveryResponse",
    ".envoy.service.discovery.v3.Resource",
    ".spire.api.agent.delegatedidentity.v1.X509SVIDWithKey",
    ".spire.api.types.AttestationData",
    ".spire.api.types.JoinToken",
    ".spire.api.types.JWTSVID",
    ".spire.api.types.WITSVID",
    ".spire.api.server.agent.v1.CreateJoinTokenRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let files = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // `compile_fds` pays no heed to `file_descriptor_set_path`.
    fs::write(out.join("descriptor_set.bin"), files.encode_to_vec())?;
    let mut config = tonic_prost_build::Config::new();
    // Messages know their full names, by which the command line finds how they look as JSON.
    config.enable_type_names();
    tonic_prost_build::configure()
        .bytes(".")
        .skip_debug(SECRET)
        .compile_fds_with_config(files, config)?;
    Ok(())
}
