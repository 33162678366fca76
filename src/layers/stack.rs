//! The order of the layers. No other module knows it.

use std::sync::Arc;

use tower::ServiceBuilder;
use tower::layer::layer_fn;

use super::admission::Admission;
use super::compression::Compression;
use super::connection::Connection;
use super::deadline::Deadline;
use super::drain::Drain;
use super::errors::Errors;
use super::frames::Frames;
use super::headers::Headers;
use super::http_guard::HttpGuard;
use super::panics::Panics;
use super::request_body::RequestBodies;
use super::response_body::Bodies;

/// All layers over a service `S`, outermost first.
pub type Stack<S> = HttpGuard<
    Errors<
        Panics<Headers<Admission<Bodies<Deadline<Drain<RequestBodies<Frames<Compression<S>>>>>>>>>,
    >,
>;

/// Wraps a service in all layers, for the calls of a connection.
pub fn stack<S>(service: S, connection: &Arc<Connection>) -> Stack<S> {
    ServiceBuilder::new()
        .layer(layer_fn(HttpGuard))
        .layer(layer_fn(Errors))
        .layer(layer_fn(Panics))
        .layer(layer_fn(|inner| Headers {
            connection: connection.clone(),
            inner,
        }))
        .layer(layer_fn(Admission))
        .layer(layer_fn(Bodies))
        .layer(layer_fn(Deadline))
        .layer(layer_fn(Drain))
        .layer(layer_fn(RequestBodies))
        .layer(layer_fn(Frames))
        .layer(layer_fn(Compression))
        .service(service)
}
