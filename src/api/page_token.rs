//! The position at which a list continues. A token is valid for one prefix, and only if this database made it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::model::KeyedHasher;

pub(super) fn encode(hasher: KeyedHasher, prefix: &str, last: &str) -> String {
    let digest = hasher.check(&[prefix.as_bytes(), last.as_bytes()]);
    let bytes = [&digest.to_le_bytes(), last.as_bytes()].concat();
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns the name after which the list continues; `None` if the token is invalid.
pub(super) fn decode(hasher: KeyedHasher, prefix: &str, token: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (digest, last) = bytes.split_first_chunk()?;
    let same = hasher.check(&[prefix.as_bytes(), last]) == u32::from_le_bytes(*digest);
    same.then(|| String::from_utf8(last.to_vec()).ok())?
}
