//! Where a list goes on. A token is for one prefix, and only this database makes it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::model::Digests;

pub(super) fn encode(digests: Digests, prefix: &str, last: &str) -> String {
    let digest = digests.check(&[prefix.as_bytes(), last.as_bytes()]);
    let bytes = [&digest.to_le_bytes(), last.as_bytes()].concat();
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The name after which the list goes on.
pub(super) fn decode(digests: Digests, prefix: &str, token: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (digest, last) = bytes.split_first_chunk()?;
    let same = digests.check(&[prefix.as_bytes(), last]) == u32::from_le_bytes(*digest);
    same.then(|| String::from_utf8(last.to_vec()).ok())?
}
