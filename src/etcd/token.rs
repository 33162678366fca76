//! The token by which etcd knows the user.

use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};

/// A token, or none if none is needed.
#[derive(Clone, Debug, Default)]
pub(super) struct Token(pub(super) Option<MetadataValue<Ascii>>);

impl Token {
    pub(super) fn put(&self, request: &mut Request<impl Sized>) {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
    }
}
