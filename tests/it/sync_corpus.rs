//! Every kind of manifest there is, into a registry and into a layout, byte for byte.

use crate::support::corpus::{Case, corpus};
use crate::support::fake::{Fake, Kind, Options};
use crate::support::program::Program;

/// Every case as a list line; what has no tag is asked for by digest.
fn lines(registry: &Fake, cases: &[Case]) -> Vec<String> {
    cases.iter().map(|case| registry.image(&case.image())).collect()
}

#[track_caller]
fn same(upstream: &Fake, target: &Fake, cases: &[Case]) {
    for case in cases.iter().filter(|case| case.carried) {
        let there = target.manifest(&format!("m/{}", case.repository), case.reference());
        assert_eq!(there, upstream.manifest(&case.repository, case.reference()), "{}", case.name);
    }
}

#[test]
fn every_kind_arrives_at_a_registry_as_it_was() {
    for options in [
        Options::default(),
        Options { mount: false, location_absolute: true, location_query: true, max_put: Some(2000), ..Options::default() },
    ] {
        let (upstream, target, program) = (Fake::start(), Fake::with(options), Program::new());
        let cases = corpus(&upstream);
        program.configure(&target, &[&upstream]);
        program.list(lines(&upstream, &cases));
        let run = program.sync_list().exits(1);
        same(&upstream, &target, &cases);
        for (case, row) in cases.iter().zip(run.images()) {
            assert_eq!(row["status"], if case.carried { "copied" } else { "failed" }, "{}: {row}", case.name);
            if case.name == "foreign-layer" {
                let note = row["notes"][0].as_str().unwrap();
                assert!(note.starts_with("foreign layer ") && note.contains("is not copied"), "{note}");
            }
            if !case.carried {
                assert!(row["error"]["message"].as_str().unwrap().contains("schema 1"), "{row}");
            }
        }
        let again = program.sync_list().exits(1);
        assert_eq!(again.total("current") as usize, cases.len() - 1);
    }
}

#[test]
fn every_kind_arrives_in_a_layout() {
    let (upstream, program) = (Fake::start(), Program::new());
    let cases: Vec<Case> = corpus(&upstream).into_iter().filter(|case| case.carried).collect();
    let rule = format!("[[rule]]\nname = \"all\"\nsource = \"{}/*\"\ntarget = \"m/*\"\n", upstream.addr());
    program.write("larder.toml", format!("version = 1\n[target]\nlayout = \"store\"\n{rule}"));
    program.list(lines(&upstream, &cases));
    let run = program.sync_list().exits(0);
    assert_eq!(run.total("copied") as usize, cases.len());
    let verified = program.run(&["verify", "store"]).exits(0);
    assert!(verified.stderr.contains("0 damaged, 0 missing"), "{}", verified.stderr);

    upstream.reset_log();
    assert_eq!(program.sync_list().exits(0).total("current") as usize, cases.len());
    assert_eq!(upstream.count(Kind::ManifestGet) + upstream.count(Kind::BlobGet), 0);
}
