//! Generates the code of the `tonic-stock` peer without a system `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../proto");
    let descriptors = protox::compile(["sum/v1/sum.proto"], ["../proto"])?;
    tonic_prost_build::configure()
        .include_file("protos.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
