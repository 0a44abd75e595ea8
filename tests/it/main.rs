//! The integration tests: one binary, so that the program and the fake registry are linked once.
//!
//! Most tests run the program itself, against the fake registry of `support` or against the real programs.
// clippy.toml lets tests unwrap; their helper functions are no tests to it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod air_gap;
mod broken_uploads;
mod bundle_export;
mod cli;
mod cli_config;
mod demo;
mod disk_full;
mod docs;
mod docs_commands;
mod doctor;
mod empty_lists;
mod fake_and_real;
mod fake_registry;
mod hostile;
mod house;
mod import;
mod internal_errors;
mod kill;
mod layout_interop;
mod ledger;
mod limits_behaviour;
mod limits_output;
mod limits_windows;
mod lists;
mod lock;
mod manifest_validity;
mod odd_answers;
mod odd_indexes;
mod outputs;
mod pack_steps;
mod plan;
mod planted_links;
mod platforms;
mod push_refused;
mod real_registry;
mod referrers;
mod rules_io;
mod selection;
mod serve_chain;
mod serve_conformance;
mod serve_untrusted;
mod shared_causes;
mod shared_names;
mod shared_state;
mod signals;
mod sporadic_faults;
mod support;
mod sync_auth;
mod sync_corpus;
mod sync_counts;
mod sync_faults;
mod sync_report;
mod tag_confirmation;
mod unsupported;
mod untidy_registries;
mod untrusted_files;
mod verify_registry;
mod warm_fake;
mod warm_nginx;
mod warm_push;
mod warm_real;
