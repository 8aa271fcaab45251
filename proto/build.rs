//! Generates the message types and service stubs from the .proto files; needs no protoc.

use std::error::Error;

const FILES: [&str; 2] = ["tributary/v1/tributary.proto", "prometheus/remote.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure().build_transport(false).bytes(".").compile_fds(descriptors)?;
    Ok(())
}
