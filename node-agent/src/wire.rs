//! A signed chain from the server, put together with the key that never left this node.

use countersign_identity::{PrivateKey, X509Svid};
use countersign_proto::convert::svid::SignedSvid;
use countersign_proto::spire::api::types;

/// The SVID; refused as a whole if the chain is not one for this key, or names somebody else than the message does.
pub(crate) fn svid(svid: Option<types::X509svid>, key: PrivateKey) -> Result<X509Svid, String> {
    let signed = svid.ok_or("the SVID is missing")?;
    let SignedSvid {
        id,
        chain,
        expires_at: _,
    } = SignedSvid::try_from(signed).map_err(|e| e.to_string())?;
    let svid = X509Svid::new(chain, key).map_err(|e| e.to_string())?;
    if *svid.id() != id {
        return Err(format!(
            "the certificate is for {} and not for {id}",
            svid.id()
        ));
    }
    Ok(svid)
}
