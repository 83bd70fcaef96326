//! Makes the stubs from the protos, wherever `cargo build` runs: the compiler of protos is a crate.

use std::error::Error;

const PROTOS: &str = "../../protos";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTOS}");
    let services = ["event_store", "stream", "consumer_group"];
    let files = services.map(|name| format!("treering/v1/{name}_service.proto"));
    tonic_prost_build::configure()
        // No `connect` on each client: one connection is made for all of them.
        .build_transport(false)
        .compile_fds(protox::compile(files, [PROTOS])?)?;
    Ok(())
}
