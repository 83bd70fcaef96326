//! Treering from Rust. [`treering`] is for every caller, [`example`] shows every call in a small
//! service, and everything else is in the stubs, [`v1`].

pub mod example;
pub mod treering;

/// The stubs, which build.rs makes.
#[allow(missing_docs, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("treering.v1");
}
