//! Generates the gRPC code from `proto/` without a system `protoc`, and the descriptor set for server reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;
use prost_types::FileDescriptorSet;

const PROTOS: [&str; 3] = [
    "proto/sum/v1/sum.proto",
    "proto/sum/v1/counter.proto",
    "proto/sum/v1/cluster.proto",
];
/// The published API of etcd. sumd is only its client, so reflection does not list it.
const ETCD: [&str; 1] = ["proto/etcd/rpc.proto"];
/// The formats of rows in etcd and of messages between nodes. They are internal, so reflection does not list them
/// either.
const INTERNAL: [&str; 2] = [
    "proto/sumd/store/v1/etcd.proto",
    "proto/sumd/cluster/v1/peer.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");

    let descriptors = descriptors(&PROTOS)?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(out, descriptors.encode_to_vec())?;

    tonic_prost_build::configure()
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(descriptors)?;
    // With `Bytes`, keys and values share the buffer of the message that they came in, and cloning a request to send it
    // again is cheap.
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".")
        .compile_fds(self::descriptors(&ETCD)?)?;
    // The server side is written by hand.
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".")
        .compile_fds(self::descriptors(&INTERNAL)?)?;
    Ok(())
}

fn descriptors(protos: &[&str]) -> Result<FileDescriptorSet, protox::Error> {
    // Source info carries the comments, which reflection shows to `grpcurl describe`.
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true);
    Ok(compiler.open_files(protos)?.file_descriptor_set())
}
