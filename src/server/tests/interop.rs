//! gRPC's own interop client against a server of sumd, which also serves the service of the test cases:
//! <https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md>. `make test` builds the client.

mod echo;
mod service;

use std::num::NonZeroUsize;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use clap::Parser as _;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::{self, Config};
use crate::server::Server;
use crate::server::stateless::named;
use echo::EchoMetadata;
use service::TestService;
use service::proto::test_service_server::TestServiceServer;

/// Far longer than a case takes, so it is reached only by a hang.
const PATIENCE: Duration = Duration::from_mins(1);

/// Makes a test for each case of a client.
macro_rules! cases {
    ($client:literal: $($case:ident)*) => {$(
        #[tokio::test]
        #[ignore = "make test runs it"]
        async fn $case() {
            passes($client, stringify!($case)).await;
        }
    )*};
}

// All cases of the client, without those that need a cloud or report load (ORCA), and without its soaks.
cases! { "interop-client":
    empty_unary
    large_unary
    client_streaming
    server_streaming
    ping_pong
    empty_stream
    timeout_on_sleeping_server
    cancel_after_begin
    cancel_after_first_response
    status_code_and_message
    special_status_message
    custom_metadata
    unimplemented_method
    unimplemented_service
    pick_first_unary
}

// The cases that it leaves out (tests/interop/main.go).
cases! { "interop-compression":
    client_compressed_unary
    server_compressed_unary
    client_compressed_streaming
    server_compressed_streaming
}

/// Runs one case of a client against a server, which has no store.
async fn passes(client: &str, case: &str) {
    let mut server = bind().await;
    let service = EchoMetadata(TestServiceServer::new(TestService));
    server.node.stateless.others.push(named(service));
    let address = server.addresses()[0].to_string();
    let (host, port) = address.rsplit_once(':').expect("host:port");

    let mut output = None;
    let ran = async { output = Some(run(client, host, port, case).await) };
    server.run(ran).await.expect("a clean end");
    let output = output.expect("the server ends after the client");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{case}: {log}");
}

async fn bind() -> Server {
    let config = Config::parse_from([
        "sumd",
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--drain-delay",
        "0s",
    ]);
    let Some(config::Command::Serve(options)) = config.command else {
        unreachable!("the command line says serve");
    };
    let (_, no_services) = watch::channel(None);
    let server = Server::bind(
        &options.listen,
        options.limits,
        NonZeroUsize::MIN,
        options.memory.request_bytes(),
        no_services,
    );
    server.await.expect("port 0 is always free")
}

async fn run(client: &str, host: &str, port: &str, case: &str) -> Output {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin");
    let output = Command::new(tools.join(client))
        .arg(format!("--server_host={host}"))
        .arg(format!("--server_port={port}"))
        .arg(format!("--test_case={case}"))
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, output).await.expect("the client ends");
    output.expect("`make test` has built it")
}
