//! What the integration tests and benches share: a fake registry, the real ones, and things to put into them.
//!
//! Every binary that says `mod support;` compiles all of it and uses a part, hence the permissions below.
//! In the fake, the error of a `Result` is the HTTP answer that refuses: large, and of no consequence.
#![allow(dead_code, unused_imports, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::result_large_err)]

pub mod clients;
pub mod corpus;
pub mod fake;
pub mod layer;
pub mod limited;
pub mod nginx;
pub mod object_storage;
pub mod program;
pub mod push;
pub mod real;
pub mod room;
pub mod served;
