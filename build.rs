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
/// The service that gRPC's interop client calls. Only tests include its code.
const INTEROP: [&str; 1] = ["src/server/tests/interop/test.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    for path in INTEROP {
        println!("cargo::rerun-if-changed={path}");
    }

    let descriptors = descriptors(&PROTOS)?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(out, descriptors.encode_to_vec())?;

    tonic_prost_build::configure()
        .build_server(false)
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(descriptors.clone())?;
    // With `Bytes`, keys and values share the buffer of the message that they came in, and cloning a request to send it
    // again is cheap.
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".")
        .compile_fds(self::descriptors(&ETCD)?)?;
    let internal = self::descriptors(&INTERNAL)?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("internal.bin");
    fs::write(out, internal.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".")
        .compile_fds(internal.clone())?;
    servers(descriptors)?;
    servers(internal)?;
    interop(self::descriptors(&INTEROP)?)?;
    Ok(())
}

/// Generates the servers, whose request messages are read straight from the wire if prost's decoding would be dear: all other
/// messages are those that were generated before.
fn servers(descriptors: FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?).join("servers");
    fs::create_dir_all(&out)?;
    tonic_prost_build::configure()
        .build_client(false)
        .out_dir(out)
        .codec_path("crate::codec::Codec")
        .extern_path(".google.rpc", "::tonic_types::pb")
        .extern_path(".sum.v1", "crate::proto::sum::v1")
        .extern_path(".sum.v1.AddRequest", "crate::api::wire::Sum")
        .extern_path(".sum.v1.AddAllRequest", "crate::api::wire::Sum")
        .extern_path(".sum.v1.AddEachRequest", "crate::api::wire::Sum")
        .extern_path(
            ".sum.v1.RecordIncrementsRequest",
            "crate::api::wire::Encoded",
        )
        .extern_path(".sumd.cluster.v1", "crate::proto::sumd::cluster::v1")
        .extern_path(".sumd.store.v1", "crate::proto::sumd::store::v1")
        .compile_fds(descriptors)?;
    Ok(())
}

/// Generates the service of the interop tests, with the codec of the other services.
fn interop(descriptors: FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("interop.bin"), descriptors.encode_to_vec())?;
    let out = out.join("interop");
    fs::create_dir_all(&out)?;
    tonic_prost_build::configure()
        .build_client(false)
        .out_dir(out)
        .codec_path("crate::codec::Codec")
        .compile_fds(descriptors)?;
    Ok(())
}

fn descriptors(protos: &[&str]) -> Result<FileDescriptorSet, protox::Error> {
    // Source info carries the comments, which reflection shows to `grpcurl describe`.
    let mut compiler = protox::Compiler::new(["proto", "src"])?;
    compiler.include_source_info(true).include_imports(true);
    Ok(compiler.open_files(protos)?.file_descriptor_set())
}
