//! What a node attestor is: a way to show a server which node this is.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::limits;

/// A way to show a server which node this is. The name of the plugin in the configuration decides which one.
pub(crate) trait NodeAttestor: fmt::Debug + Send + Sync {
    /// Its name on the wire.
    fn kind(&self) -> &'static str;

    /// Gathers what one attestation takes. Blocks on the disk.
    ///
    /// # Errors
    /// [`NoProof`].
    fn prove(&self) -> Result<Box<dyn Proof>, NoProof>;
}

/// What is shown in one attestation.
pub(crate) trait Proof: Send + Sync {
    /// What goes with the first message; never empty.
    fn payload(&self) -> Bytes;

    /// The answer to a challenge.
    ///
    /// # Errors
    /// [`NoProof::Challenge`]: it is no challenge for this kind of proof.
    fn answer(&self, challenge: &[u8]) -> Result<Bytes, NoProof>;
}

/// Why there is nothing to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoProof {
    /// No join token was given.
    #[error(
        "there is no join token: make one with `countersign-server token generate` and start with -joinToken, or set \
         join_token in the configuration"
    )]
    NoToken,
    /// A file can't be used.
    #[error("cannot attest with {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The challenge makes no sense for this kind of proof.
    #[error("the server's challenge can't be answered: {0}")]
    Challenge(String),
    /// The key did not sign.
    #[error("the private key does not sign")]
    Sign,
}

/// Reads a file of the attestor's configuration, which may hold a secret.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, NoProof> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = File::open(path).and_then(|file| {
        file.take(limits::ATTESTOR_FILE_BYTES)
            .read_to_end(&mut bytes)
    });
    read.map_err(|error| NoProof::File {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(bytes)
}
