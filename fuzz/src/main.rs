//! One fuzzer for every parser: `LARDER_FUZZ=manifest` chooses which. `fuzz/run` builds and starts it.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

/// The parser that this process feeds.
static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("LARDER_FUZZ").unwrap_or_default();
    let found = larder::fuzz::TARGETS.iter().find(|(target, _)| *target == name);
    found.unwrap_or_else(|| panic!("LARDER_FUZZ is `{name}`, which names no target")).1
});

fuzz_target!(|data: &[u8]| TARGET(data));
