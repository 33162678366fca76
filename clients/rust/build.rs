//! Generates the client stubs from `proto/`. protox parses the protos, so no `protoc` is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=../../proto");
    let descriptors = protox::compile(
        ["sum/v1/sum.proto", "sum/v1/counter.proto"],
        ["../../proto"],
    )?;
    tonic_prost_build::configure()
        .build_server(false)
        // tonic-types already has these messages, with accessors for their details.
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(descriptors)?;
    Ok(())
}
