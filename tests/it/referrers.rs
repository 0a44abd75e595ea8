//! What travels with images: signatures, attestations, SBOMs.

use std::collections::BTreeSet;

use crate::support::corpus::{OCI_IMAGE, OCI_INDEX, Put, artifact, cosign_signature, manifest, multi, simple};
use crate::support::fake::{Fake, Fault, Kind, Match, Options, Pulls};
use crate::support::limited::LONG;
use crate::support::program::{Program, Run};
use crate::support::push::{Push, client};
use crate::support::real::{DockerRegistry, require, skopeo_ok};
use larder::content::{Descriptor, Digest, fallback_tag};
use oci_client::secrets::RegistryAuth;
use serde_json::{Value, json};

const SIGNATURE: &str = "application/vnd.example.signature";
const SBOM: &str = "application/vnd.example.sbom";

/// Writes a `larder.toml` that fills `target` (`registry = "…"`, `layout = "store"`) below `m/` from `upstream`, by a rule with
/// `more` in it.
fn configure(program: &Program, target: &str, upstream: &str, more: &str) {
    let rule = format!("[[rule]]\nname = \"all\"\nsource = \"{upstream}/*\"\ntarget = \"m/*\"\n{more}\n");
    program.write("larder.toml", format!("version = 1\n[target]\n{target}\n{rule}"));
}

/// A program that copies from `upstream` into `target` with all that belongs to the images.
fn ready(target: &Fake, upstream: &Fake, more: &str) -> Program {
    let program = Program::new();
    configure(&program, &format!("registry = \"{}\"", target.addr()), &upstream.addr(), more);
    program
}

/// An image with a signature and an SBOM, and a signature of that.
struct Signed {
    image: Descriptor,
    signature: Descriptor,
    sbom: Descriptor,
    countersignature: Descriptor,
}

impl Signed {
    /// `app:v1`
    fn put(put: &dyn Put) -> Self {
        let image = simple(put, "app", "v1", 1);
        let signature = artifact(put, "app", None, SIGNATURE, "signed", Some(&image));
        let sbom = artifact(put, "app", None, SBOM, "contains nothing", Some(&image));
        let countersignature = artifact(put, "app", None, SIGNATURE, "countersigned", Some(&sbom));
        Signed { image, signature, sbom, countersignature }
    }
    fn all(&self) -> [&Descriptor; 3] {
        [&self.signature, &self.sbom, &self.countersignature]
    }
}

/// What `Listing Referrers` answers at a fake, as digests.
fn listed(registry: &Push, repository: &str, subject: &Digest) -> BTreeSet<String> {
    let index = registry.read(&format!("/v2/{repository}/referrers/{subject}"), "*/*").unwrap();
    digests(&serde_json::from_slice(&index).unwrap())
}

fn digests(index: &Value) -> BTreeSet<String> {
    index["manifests"].as_array().unwrap().iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect()
}

fn set(descriptors: &[&Descriptor]) -> BTreeSet<String> {
    descriptors.iter().map(|descriptor| descriptor.digest.to_string()).collect()
}

/// The index of referrers under `subject`'s tag.
fn fallback(registry: &Fake, repository: &str, subject: &Digest) -> Value {
    let (media_type, bytes) = registry.manifest(repository, fallback_tag(subject)).unwrap();
    assert_eq!(media_type, OCI_INDEX);
    serde_json::from_slice(&bytes).unwrap()
}

/// Puts the index under `subject`'s tag, as a tool without the API does; entries say no more than digest, size and type.
fn put_fallback(put: &dyn Put, repository: &str, subject: &Descriptor, referrers: &[&Descriptor]) -> Descriptor {
    let bare: Vec<Descriptor> = referrers.iter().map(|of| Descriptor::new(of.media_type.clone(), of.digest.clone(), of.size)).collect();
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": bare});
    manifest(put, repository, Some(&fallback_tag(&subject.digest)), OCI_INDEX, index.to_string())
}

/// In which order manifests were put, by digest or tag.
fn puts(registry: &Fake) -> Vec<String> {
    registry.requests().into_iter().filter(|request| request.kind == Kind::ManifestPut).filter_map(|request| request.reference).collect()
}

fn row(run: &Run) -> &Value {
    assert_eq!(run.images().len(), 1);
    &run.images()[0]
}

#[test]
fn a_signature_an_sbom_and_its_signature_arrive_before_the_name_and_cost_a_pull_each() {
    let (upstream, target) = (Fake::with(Options { referrers_page: Some(1), ..Options::default() }), Fake::start());
    let program = ready(&target, &upstream, "");
    let signed = Signed::put(&upstream);
    program.list([upstream.image("app:v1")]);
    let run = program.sync_list().exits(0);
    assert_eq!((&row(&run)["status"], &row(&run)["referrers"], &row(&run)["pulls"]), (&"copied".into(), &3.into(), &4.into()));
    assert_eq!(row(&run)["notes"], json!([]));
    assert_eq!(upstream.count(Kind::ManifestGet), 4);
    let there = Push::to(target.addr());
    assert_eq!(listed(&there, "m/app", &signed.image.digest), set(&[&signed.signature, &signed.sbom]));
    assert_eq!(listed(&there, "m/app", &signed.sbom.digest), set(&[&signed.countersignature]));
    for referrer in signed.all() {
        let digest = referrer.digest.as_str();
        assert_eq!(target.manifest("m/app", digest), upstream.manifest("app", digest));
    }
    // The image by digest, what is about it, what is about that, the name.
    let puts = puts(&target);
    assert_eq!(
        (puts.len(), &puts[0], &puts[3], &puts[4]),
        (5, &signed.image.digest.to_string(), &signed.countersignature.digest.to_string(), &"v1".to_owned())
    );
    assert_eq!(target.tags("m/app"), ["v1"], "a registry that has seen the subject keeps the list itself");
    // One listing finds cosign's tags of all images of a repository; each subject is asked about once, page by page.
    assert_eq!((upstream.count(Kind::Tags), upstream.count(Kind::Referrers)), (1, 2 + 1 + 1 + 1));
    assert_eq!(run.registry(&upstream.addr())["requests"]["referrers"], 5);
}

/// Ten repositories of ten images, the first image of each signed twice.
fn hundred(upstream: &Fake) -> Vec<String> {
    let mut images = vec![];
    for repository in 0..10 {
        let name = format!("team/app{repository}");
        for tag in 0..10 {
            let image = simple(upstream, &name, &format!("v{tag}"), 1 + repository * 10 + tag);
            images.push(upstream.image(&format!("{name}:v{tag}")));
            if tag == 0 {
                artifact(upstream, &name, None, SIGNATURE, format!("signed {repository}"), Some(&image));
                cosign_signature(upstream, &name, &image);
            }
        }
    }
    images
}

/// Lets all images that were delivered have been so for `days` days already.
fn age(program: &Program, days: u64) {
    let path = "home/state/larder/delivered.jsonl";
    let at = (jiff::Timestamp::now() - std::time::Duration::from_secs(days * 86_400)).to_string();
    let lines: Vec<String> = program
        .read(path)
        .lines()
        .map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            line["at"] = at.as_str().into();
            line.to_string() + "\n"
        })
        .collect();
    program.write(path, lines.concat());
}

#[test]
fn a_quiet_night_costs_lists_for_a_week_and_no_pull() {
    let (upstream, target) = (Fake::start(), Fake::start());
    let program = ready(&target, &upstream, "");
    program.list(hundred(&upstream));
    let first = program.sync_list().exits(0);
    assert_eq!((first.total("copied"), upstream.count(Kind::ManifestGet)), (100, 120));
    for state_lost in [false, true] {
        if state_lost {
            std::fs::remove_dir_all(program.path("home/state")).unwrap();
        }
        upstream.reset_log();
        target.reset_log();
        let again = program.sync_list().exits(0);
        assert_eq!((again.total("current"), again.total("bytes_read"), again.total("bytes_written")), (100, 0, 0));
        assert_eq!((&again.images()[0]["referrers"], &again.images()[0]["notes"]), (&2.into(), &json!([])));
        assert_eq!(again.images()[1]["referrers"], 0);
        // A list for each image, and for each referrer; a HEAD for each of cosign's tags. Nothing else.
        let counts = [Kind::Referrers, Kind::Tags, Kind::ManifestHead, Kind::ManifestGet].map(|kind| upstream.count(kind));
        assert_eq!((counts, upstream.requests().len()), ([120, 10, 110, 0], 240));
        // The target is asked what it lists where there is something to compare.
        let counts = [Kind::Referrers, Kind::ManifestHead, Kind::ManifestGet].map(|kind| target.count(kind));
        // Without its memory, larder opens an upload and cancels it: the target might be a cache, which answers for its upstream.
        let looked = if state_lost { 2 } else { 0 };
        assert_eq!((counts, target.requests().len()), ([10, 110, 0], 120 + looked));
    }
    age(&program, 8);
    upstream.reset_log();
    target.reset_log();
    assert_eq!(program.sync_list().exits(0).total("current"), 100);
    assert_eq!((upstream.requests().len(), target.requests().len()), (100, 100), "a HEAD on each side");
    assert_eq!((upstream.count(Kind::ManifestHead), target.count(Kind::ManifestHead)), (100, 100));
}

#[test]
fn without_the_api_indexes_under_tags_are_read_once_and_kept_right_at_the_target() {
    let without = || Fake::with(Options { referrers: false, ..Options::default() });
    let (upstream, target) = (without(), without());
    let program = ready(&target, &upstream, "");
    let signed = Signed::put(&upstream);
    let plain = simple(&upstream, "app", "v2", 7);
    // cosign#4641: no artifact types, no annotations.
    put_fallback(&upstream, "app", &signed.image, &[&signed.signature, &signed.sbom]);
    put_fallback(&upstream, "app", &signed.sbom, &[&signed.countersignature]);
    program.list(["app:v1", "app:v2"].map(|image| upstream.image(image)));
    let run = program.sync_list().exits(0);
    // The image, two indexes, three referrers; and the other image.
    assert_eq!((&run.images()[0]["pulls"], &run.images()[0]["referrers"], &run.images()[1]["pulls"]), (&6.into(), &3.into(), &1.into()));
    // A HEAD for each tag that is in the listing, and for no other.
    assert_eq!((upstream.count(Kind::Tags), upstream.count(Kind::Referrers), upstream.count(Kind::ManifestHead)), (1, 1, 2 + 2));
    let index = fallback(&target, "m/app", &signed.image.digest);
    assert_eq!(digests(&index), set(&[&signed.signature, &signed.sbom]));
    for entry in index["manifests"].as_array().unwrap() {
        let expected = if entry["digest"] == signed.sbom.digest.as_str() { SBOM } else { SIGNATURE };
        assert_eq!((&entry["artifactType"], &entry["mediaType"]), (&expected.into(), &OCI_IMAGE.into()));
        assert_eq!(entry["annotations"]["org.opencontainers.image.created"], "2026-01-01T00:00:00Z");
    }
    assert_eq!(digests(&fallback(&target, "m/app", &signed.sbom.digest)), set(&[&signed.countersignature]));
    let names: BTreeSet<String> = target.tags("m/app").into_iter().collect();
    let expected = ["v1".to_owned(), "v2".to_owned(), fallback_tag(&signed.image.digest), fallback_tag(&signed.sbom.digest)];
    assert_eq!(names, expected.into_iter().collect());
    // The name is the last that is given.
    let puts = puts(&target);
    let at = |name: &str| puts.iter().position(|put| put == name).unwrap();
    assert!(at("v1") > at(&fallback_tag(&signed.image.digest)) && at("v1") > at(&fallback_tag(&signed.sbom.digest)), "{puts:?}");

    upstream.reset_log();
    target.reset_log();
    let again = program.sync_list().exits(0);
    assert_eq!((again.total("current"), &again.images()[0]["referrers"]), (2, &3.into()));
    assert_eq!((upstream.count(Kind::ManifestGet), upstream.count(Kind::BlobGet), target.count(Kind::ManifestPut)), (0, 0, 0));
    // What the indexes say is known from the last time.
    assert_eq!(again.images()[0]["pulls"], 0);
    assert!(plain.size > 0);
}

#[test]
fn a_signature_that_comes_later_is_brought_and_the_image_stays_current() {
    for api in [true, false] {
        let (upstream, target) = (Fake::with(Options { referrers: api, ..Options::default() }), Fake::start());
        let program = ready(&target, &upstream, "");
        let image = simple(&upstream, "app", "v1", 1);
        upstream.tag("app", "latest", &image.digest);
        program.list(["app:v1", "app:latest"].map(|image| upstream.image(image)));
        assert_eq!(program.sync_list().exits(0).total("copied"), 2);
        let sbom = artifact(&upstream, "app", None, SBOM, "late", Some(&image));
        cosign_signature(&upstream, "app", &image);
        if !api {
            put_fallback(&upstream, "app", &image, &[&sbom]);
        }
        upstream.reset_log();
        target.reset_log();
        let run = program.sync_list().exits(0);
        assert_eq!(run.total("current"), 2);
        let mut notes: Vec<&Value> = run.images().iter().map(|row| &row["notes"]).collect();
        notes.sort_by_key(|notes| notes.as_array().unwrap().len());
        assert_eq!(notes, [&json!([]), &json!(["2 new referrers"])]);
        assert!(run.images().iter().all(|row| row["referrers"] == 2), "{:?}", run.images());
        let pulls: u64 = run.images().iter().map(|row| row["pulls"].as_u64().unwrap()).sum();
        assert_eq!((pulls, upstream.count(Kind::ManifestGet)), (if api { 2 } else { 3 }, if api { 2 } else { 3 }));
        assert_eq!(listed(&Push::to(target.addr()), "m/app", &image.digest), set(&[&sbom]));
        let signature = format!("sha256-{}.sig", image.digest.encoded());
        assert_eq!(target.digest("m/app", &signature), upstream.digest("app", &signature));
        assert!(!puts(&target).contains(&"v1".to_owned()) && !puts(&target).contains(&"latest".to_owned()));
        upstream.reset_log();
        program.sync_list().exits(0);
        assert_eq!(upstream.count(Kind::ManifestGet), 0);
    }
}

#[test]
fn how_long_is_looked_is_the_rules_and_recheck_looks_always() {
    let late = |more: &str, days: u64, arguments: &[&str]| {
        let (upstream, target) = (Fake::start(), Fake::start());
        let program = ready(&target, &upstream, more);
        let image = simple(&upstream, "app", "v1", 1);
        program.list([upstream.image("app:v1")]);
        program.sync_list().exits(0);
        if days > 0 {
            age(&program, days);
        }
        artifact(&upstream, "app", None, SBOM, "late", Some(&image));
        upstream.reset_log();
        let run = program.sync(&[&["list.txt"], arguments].concat()).exits(0);
        assert_eq!((run.total("current"), run.total("copied")), (1, 0));
        (run.images()[0]["referrers"].as_u64().unwrap(), upstream.requests().len() - upstream.count(Kind::ManifestHead))
    };
    assert_eq!(late("", 6, &[]).0, 1);
    assert_eq!(late("", 8, &[]), (0, 0));
    assert_eq!(late("referrers_recheck = \"10d\"", 8, &[]).0, 1);
    assert_eq!(late("referrers_recheck = \"never\"", 0, &[]), (0, 0));
    assert_eq!(late("referrers_recheck = \"always\"", 1000, &[]).0, 1);
    assert_eq!(late("", 1000, &["--recheck"]).0, 1);
    assert_eq!(late("referrers = false", 0, &["--recheck"]), (0, 0));
    // An immutable tag that the target has costs the upstream no request, also not for signatures.
    assert_eq!(late("immutable_tags = [\"v*\"]", 0, &[]), (0, 0));
    assert_eq!(late("immutable_tags = [\"v*\"]", 0, &["--recheck"]).0, 1);
}

#[test]
fn an_image_whose_signature_cannot_be_had_gets_no_name() {
    let (upstream, target) = (Fake::start(), Fake::start());
    let program = ready(&target, &upstream, "");
    let signed = Signed::put(&upstream);
    upstream.delete_blob("app", &Digest::sha256(b"countersigned"));
    simple(&upstream, "app", "v2", 5);
    program.list(["app:v1", "app:v2"].map(|image| upstream.image(image)));
    let run = program.sync_list().exits(1);
    assert_eq!((&run.error()["operation"], &run.error()["status"]), (&"get blob".into(), &404.into()));
    assert_eq!(target.tags("m/app"), ["v2"]);
    assert!(target.manifest("m/app", signed.countersignature.digest.as_str()).is_none());

    // It goes on from there, for what it had not got.
    upstream.put_blob("app", &b"countersigned"[..]);
    upstream.reset_log();
    let run = program.sync_list().exits(0);
    assert_eq!(
        (&run.images()[0]["status"], &run.images()[0]["referrers"], &run.images()[0]["pulls"]),
        (&"copied".into(), &3.into(), &0.into())
    );
    assert_eq!(listed(&Push::to(target.addr()), "m/app", &signed.sbom.digest), set(&[&signed.countersignature]));
}

#[test]
fn only_the_types_asked_for_are_carried_and_asked_for() {
    for filter in [true, false] {
        let (upstream, target) = (Fake::with(Options { referrers_filter: filter, ..Options::default() }), Fake::start());
        let program = ready(&target, &upstream, &format!("referrers = [\"{SBOM}\"]"));
        let signed = Signed::put(&upstream);
        cosign_signature(&upstream, "app", &signed.image);
        program.list([upstream.image("app:v1")]);
        let run = program.sync_list().exits(0);
        assert_eq!((&row(&run)["referrers"], &row(&run)["pulls"]), (&1.into(), &2.into()));
        assert_eq!(listed(&Push::to(target.addr()), "m/app", &signed.image.digest), set(&[&signed.sbom]));
        assert_eq!(target.tags("m/app"), ["v1"]);
        // cosign's tags are not wanted: nobody looks for them.
        assert_eq!(upstream.count(Kind::Tags), 0);
        let asked: Vec<String> =
            upstream.requests().into_iter().filter(|request| request.kind == Kind::Referrers).map(|request| request.query).collect();
        assert_eq!(asked, vec!["artifactType=application%2Fvnd.example.sbom"; 2]);
    }
}

#[test]
fn cosigns_tags_count_as_the_types_cosign_gives_them() {
    let (upstream, target) = (Fake::start(), Fake::start());
    let program = ready(&target, &upstream, "referrers = [\"application/vnd.dev.cosign.artifact.sig.v1+json\", \"a/b\"]");
    let signed = Signed::put(&upstream);
    cosign_signature(&upstream, "app", &signed.image);
    upstream.tag("app", &format!("sha256-{}.sbom", signed.image.digest.encoded()), &signed.sbom.digest);
    program.list([upstream.image("app:v1")]);
    let run = program.sync_list().exits(0);
    assert_eq!((&row(&run)["referrers"], &row(&run)["pulls"]), (&1.into(), &2.into()));
    assert_eq!(target.tags("m/app"), [format!("sha256-{}.sig", signed.image.digest.encoded()), "v1".to_owned()]);
    let asked = upstream.requests().into_iter().filter(|request| request.kind == Kind::Referrers);
    assert!(asked.into_iter().all(|request| request.query.is_empty()), "of two types neither is asked for");
}

#[test]
fn children_have_referrers_too() {
    let (upstream, target) = (Fake::start(), Fake::start());
    let program = ready(&target, &upstream, "");
    let index = multi(&upstream, "app", "v1", 3, &["linux/amd64", "linux/arm64"]);
    let (_, bytes) = upstream.manifest("app", "v1").unwrap();
    let children: Vec<Descriptor> = serde_json::from_value(serde_json::from_slice::<Value>(&bytes).unwrap()["manifests"].clone()).unwrap();
    cosign_signature(&upstream, "app", &index);
    children.iter().for_each(|child| _ = cosign_signature(&upstream, "app", child));
    let sbom = artifact(&upstream, "app", None, SBOM, "of one", Some(&children[1]));
    program.list([upstream.image("app:v1")]);
    let run = program.sync_list().exits(0);
    assert_eq!((&row(&run)["referrers"], &row(&run)["pulls"]), (&4.into(), &(3 + 4).into()));
    assert_eq!(target.tags("m/app").len(), 1 + 3);
    assert_eq!(listed(&Push::to(target.addr()), "m/app", &children[1].digest), set(&[&sbom]));
    // Also when the children are known from the state no more.
    for state_lost in [false, true] {
        if state_lost {
            std::fs::remove_dir_all(program.path("home/state")).unwrap();
        }
        upstream.reset_log();
        target.reset_log();
        let again = program.sync_list().exits(0);
        assert_eq!((&row(&again)["status"], &row(&again)["referrers"]), (&"current".into(), &4.into()));
        assert_eq!(upstream.count(Kind::ManifestGet), 0);
        assert_eq!(target.count(Kind::ManifestGet), usize::from(state_lost));
    }
}

#[test]
fn a_plan_has_the_pulls_of_referrers_in_it() {
    let (upstream, target) = (Fake::with(Options { pulls: Some(Pulls::new(100, LONG)), ..Options::default() }), Fake::start());
    let program = ready(&target, &upstream, "");
    let signed = Signed::put(&upstream);
    program.list([upstream.image("app:v1")]);
    let plan = || {
        let run = program.run(&["plan", "list.txt", "--format", "json"]).exits(0);
        let plan: Value = serde_json::from_str(&run.stdout).unwrap();
        (
            plan["images"][0]["state"].clone(),
            plan["images"][0]["pulls"].clone(),
            plan["images"][0]["pulls_exact"].clone(),
            plan["accounts"][0]["pulls"].clone(),
        )
    };
    assert_eq!(plan(), ("missing".into(), 4.into(), true.into(), 4.into()));
    assert_eq!(upstream.pulls("anonymous"), 0);
    let run = program.sync_list().exits(0);
    assert_eq!((&row(&run)["pulls"], upstream.pulls("anonymous")), (&4.into(), 4));
    assert_eq!(plan(), ("current".into(), Value::Null, Value::Null, 0.into()));
    artifact(&upstream, "app", None, SIGNATURE, "late", Some(&signed.image));
    assert_eq!(plan(), ("current".into(), 1.into(), true.into(), 1.into()));
    assert_eq!(upstream.pulls("anonymous"), 4);
}

#[test]
fn an_image_is_begun_when_there_are_pulls_for_its_referrers_too() {
    for (spent, fits) in [(6, true), (7, false)] {
        let (upstream, target) = (Fake::with(Options { pulls: Some(Pulls::new(10, LONG)), ..Options::default() }), Fake::start());
        assert!(upstream.spend_pulls("anonymous", spent));
        let program = ready(&target, &upstream, "");
        Signed::put(&upstream);
        program.list([upstream.image("app:v1")]);
        if fits {
            assert_eq!(row(&program.sync_list().exits(0))["pulls"], 4);
        } else {
            let run = program.sync_list().exits(3);
            assert_eq!((&row(&run)["status"], upstream.pulls("anonymous"), upstream.pull_refusals()), (&"deferred".into(), 0, 0));
        }
    }
}

#[test]
fn a_referrer_about_something_else_is_not_carried() {
    let (upstream, target) = (Fake::with(Options { referrers: false, ..Options::default() }), Fake::start());
    let program = ready(&target, &upstream, "");
    let (image, other) = (simple(&upstream, "app", "v1", 1), simple(&upstream, "app", "v2", 2));
    let (right, wrong) =
        (artifact(&upstream, "app", None, SBOM, "right", Some(&image)), artifact(&upstream, "app", None, SBOM, "wrong", Some(&other)));
    let lost = artifact(&upstream, "app", None, SBOM, "lost", Some(&image));
    upstream.delete_manifest("app", &lost.digest);
    put_fallback(&upstream, "app", &image, &[&right, &wrong, &lost]);
    program.list([upstream.image("app:v1")]);
    let run = program.sync_list().exits(0);
    let notes = json!([
        format!("referrer {} is not carried: it says itself that it is about something else", wrong.digest.short()),
        format!("referrer {} is listed upstream, and is not there", lost.digest.short()),
    ]);
    assert_eq!((&row(&run)["notes"], &row(&run)["referrers"]), (&notes, &1.into()));
    assert_eq!(listed(&Push::to(target.addr()), "m/app", &image.digest), set(&[&right]));
    assert!(target.manifest("m/app", wrong.digest.as_str()).is_none());
    // Neither is asked for again.
    upstream.reset_log();
    let again = program.sync_list().exits(0);
    assert_eq!((&row(&again)["status"], upstream.count(Kind::ManifestGet)), (&"current".into(), 0));
}

#[test]
fn refusals_are_no_proof_that_there_are_no_referrers_and_are_told() {
    for (code, name, message) in [(401, "UNAUTHORIZED", "log in"), (403, "DENIED", "not for you")] {
        let (upstream, target) = (Fake::start(), Fake::start());
        let program = ready(&target, &upstream, "");
        let image = simple(&upstream, "app", "v1", 1);
        let signature = artifact(&upstream, "app", None, SIGNATURE, "signed", Some(&image));
        put_fallback(&upstream, "app", &image, &[&signature]);
        program.list([upstream.image("app:v1")]);
        upstream.fault(Match::kind(Kind::Referrers), crate::support::fake::FOREVER, Fault::error(code, name, message));
        upstream.fault(Match::kind(Kind::Tags), crate::support::fake::FOREVER, Fault::error(code, name, message));
        let run = program.sync_list().exits(0);
        assert_eq!(row(&run)["referrers"], 1, "{code}: it is found under its tag, by name");
        let note = format!("{} has no list of referrers ({code}): signatures were looked for by tag", upstream.addr());
        assert_eq!(row(&run)["notes"], json!([note]));
        assert!(target.manifest("m/app", signature.digest.as_str()).is_some());
    }
}

#[test]
fn a_redirect_to_another_host_is_no_list_and_is_not_followed() {
    let (upstream, target, elsewhere) = (Fake::start(), Fake::start(), Fake::start());
    let program = ready(&target, &upstream, "");
    let signed = Signed::put(&upstream);
    put_fallback(&upstream, "app", &signed.image, &[&signed.signature]);
    simple(&upstream, "other", "v1", 3);
    let away = Fault::Redirect { code: 303, location: format!("{}/-/v2/packages", elsewhere.url()) };
    upstream.fault(Match::kind(Kind::Referrers), crate::support::fake::FOREVER, away);
    program.list(["app:v1", "other:v1"].map(|image| upstream.image(image)));
    let run = program.sync_list().exits(0);
    assert_eq!((&run.images()[0]["referrers"], &run.images()[0]["pulls"]), (&1.into(), &3.into()));
    assert_eq!((elsewhere.requests().len(), upstream.count(Kind::Referrers)), (0, 1), "asked once a run");
}

#[test]
fn a_registry_that_is_known_to_have_no_api_is_not_asked() {
    let (upstream, target) = (Fake::start(), Fake::start());
    let program = Program::new();
    configure(&program, &format!("registry = \"{}\"", target.addr()), &upstream.addr(), "");
    let text = program.read("larder.toml") + &format!("[registry.\"{}\"]\nprofile = \"ghcr\"\n", upstream.addr());
    program.write("larder.toml", text);
    let signed = Signed::put(&upstream);
    put_fallback(&upstream, "app", &signed.image, &[&signed.sbom]);
    program.list([upstream.image("app:v1")]);
    assert_eq!(row(&program.sync_list().exits(0))["referrers"], 1);
    assert_eq!((upstream.count(Kind::Referrers), upstream.count(Kind::Tags)), (0, 1));
}

/// A target without the API that has an index of somebody else's under the image's tag.
fn shared(entries: &[&Descriptor], image: &Descriptor) -> Fake {
    let target = Fake::with(Options { referrers: false, check_children: false, ..Options::default() });
    put_fallback(&target, "m/app", image, entries);
    target.configure(|options| options.check_children = true);
    target
}

#[test]
fn entries_of_others_stay_in_a_targets_index_unless_they_point_to_nothing() {
    let upstream = Fake::start();
    let signed = Signed::put(&upstream);
    let theirs = artifact(&Fake::start(), "app", None, "their/type", "theirs", Some(&signed.image));
    for there in [true, false] {
        let target = shared(&[&theirs, &signed.signature], &signed.image);
        if there {
            artifact(&target, "m/app", None, "their/type", "theirs", Some(&signed.image));
        }
        let program = ready(&target, &upstream, "");
        program.list([upstream.image("app:v1")]);
        assert_eq!(row(&program.sync_list().exits(0))["referrers"], 3);
        let index = fallback(&target, "m/app", &signed.image.digest);
        let expected = if there { set(&[&signed.signature, &signed.sbom, &theirs]) } else { set(&[&signed.signature, &signed.sbom]) };
        assert_eq!(digests(&index), expected);
        let ours = index["manifests"].as_array().unwrap().iter().find(|entry| entry["digest"] == signed.signature.digest.as_str());
        assert_eq!(ours.unwrap()["artifactType"], SIGNATURE, "said by its manifest, whatever stood there");
        let order: Vec<&str> = index["manifests"].as_array().unwrap().iter().map(|entry| entry["digest"].as_str().unwrap()).collect();
        assert!(order.is_sorted(), "{order:?}");
    }
}

#[test]
fn a_lost_race_for_a_targets_index_is_run_again() {
    for code in [201, 412] {
        let upstream = Fake::start();
        let signed = Signed::put(&upstream);
        let target = shared(&[], &signed.image);
        let tag = fallback_tag(&signed.image.digest);
        // Somebody else's index takes the place of ours as soon as it is put; or If-Match shows in time that it is there.
        target.fault(Match::kind(Kind::ManifestPut).reference(&tag), 2, Fault::status(code));
        let program = ready(&target, &upstream, "");
        program.list([upstream.image("app:v1")]);
        assert_eq!(row(&program.sync_list().exits(0))["status"], "copied");
        assert_eq!(target.faults_left(), 0);
        assert_eq!(digests(&fallback(&target, "m/app", &signed.image.digest)), set(&[&signed.signature, &signed.sbom]));
        let put: Vec<_> = target
            .requests()
            .into_iter()
            .filter(|request| request.kind == Kind::ManifestPut && request.reference.as_deref() == Some(&tag))
            .collect();
        assert_eq!(put.len(), 3);
        assert!(put.iter().all(|put| put.header("if-match").is_some_and(|etag| etag.starts_with("\"sha256:"))));
    }
}

#[test]
fn a_tag_that_lists_no_referrers_is_not_overwritten() {
    let (upstream, target) = (Fake::start(), Fake::with(Options { referrers: false, ..Options::default() }));
    let signed = Signed::put(&upstream);
    let mine = simple(&target, "m/app", &fallback_tag(&signed.image.digest), 9);
    let program = ready(&target, &upstream, "");
    program.list([upstream.image("app:v1")]);
    let run = program.sync_list().exits(1);
    assert!(run.error()["message"].as_str().unwrap().contains("cannot be used: it is another kind of manifest"), "{}", run.error());
    assert_eq!(target.digest("m/app", &fallback_tag(&signed.image.digest)), Some(mine.digest));
    assert!(target.digest("m/app", "v1").is_none());
}

#[test]
fn a_registry_with_the_api_that_does_not_say_so_gets_the_index_too() {
    let (upstream, target) = (Fake::start(), Fake::with(Options { subject_header: false, ..Options::default() }));
    let program = ready(&target, &upstream, "");
    let signed = Signed::put(&upstream);
    program.list([upstream.image("app:v1")]);
    program.sync_list().exits(0);
    assert_eq!(digests(&fallback(&target, "m/app", &signed.image.digest)), set(&[&signed.signature, &signed.sbom]));
}

#[test]
fn a_lock_has_the_referrers_and_a_frozen_run_asks_for_no_list() {
    let (upstream, target) = (Fake::start(), Fake::start());
    let program = ready(&target, &upstream, "");
    let signed = Signed::put(&upstream);
    cosign_signature(&upstream, "app", &signed.image);
    program.list([upstream.image("app:v1")]);
    program.sync(&["list.txt", "--lock", "larder.lock"]).exits(0);
    let lock: Value = serde_json::from_str(&program.read("larder.lock")).unwrap();
    let pieces = lock["images"][0]["referrers"].as_array().unwrap();
    assert_eq!(pieces.len(), 4);
    let countersignature = pieces.iter().find(|piece| piece["digest"] == signed.countersignature.digest.as_str()).unwrap();
    assert_eq!(
        (&countersignature["subject"], &countersignature["artifact_type"]),
        (&signed.sbom.digest.as_str().into(), &SIGNATURE.into())
    );
    assert!(pieces.iter().any(|piece| piece["tag"] == format!("sha256-{}.sig", signed.image.digest.encoded())));
    // A night with nothing new writes the same.
    let before = (program.read("larder.lock"), target.count(Kind::ManifestGet));
    program.sync(&["list.txt", "--lock", "larder.lock"]).exits(0);
    assert_eq!((program.read("larder.lock"), target.count(Kind::ManifestGet)), before);

    let fresh = Fake::start();
    let program_of_fresh = ready(&fresh, &upstream, "");
    program_of_fresh.write("larder.lock", program.read("larder.lock"));
    artifact(&upstream, "app", None, SBOM, "later than the lock", Some(&signed.image));
    upstream.reset_log();
    let run = program_of_fresh.sync(&["--lock", "larder.lock", "--frozen"]).exits(0);
    assert_eq!((&row(&run)["status"], &row(&run)["referrers"], &row(&run)["pulls"]), (&"copied".into(), &4.into(), &5.into()));
    assert_eq!((upstream.count(Kind::Tags), upstream.count(Kind::Referrers), upstream.count(Kind::ManifestHead)), (0, 0, 0));
    assert_eq!(listed(&Push::to(fresh.addr()), "m/app", &signed.image.digest), set(&[&signed.signature, &signed.sbom]));
}

#[test]
fn into_a_layout_and_on_from_there() {
    let (upstream, program) = (Fake::start(), Program::new());
    configure(&program, "layout = \"store\"", &upstream.addr(), "");
    let signed = Signed::put(&upstream);
    cosign_signature(&upstream, "app", &signed.image);
    program.list([upstream.image("app:v1")]);
    let run = program.sync_list().exits(0);
    assert_eq!((&row(&run)["referrers"], &row(&run)["pulls"]), (&4.into(), &5.into()));
    let verified = program.run(&["verify", "store"]).exits(0);
    assert!(verified.stderr.contains("0 damaged, 0 missing"), "{}", verified.stderr);

    let index: Value = serde_json::from_str(&program.read("store/index.json")).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    let name = |entry: &Value| entry["annotations"]["org.opencontainers.image.ref.name"].as_str().map(str::to_owned);
    let names: BTreeSet<String> = entries.iter().filter_map(name).collect();
    let tag = |of: &Descriptor, suffix| format!("m/app:{}{suffix}", fallback_tag(&of.digest));
    let expected = ["m/app:v1".to_owned(), tag(&signed.image, ".sig"), tag(&signed.image, ""), tag(&signed.sbom, "")];
    assert_eq!(names, expected.into_iter().collect());
    let unnamed = json!({"manifests": entries.iter().filter(|entry| name(entry).is_none()).collect::<Vec<_>>()});
    assert_eq!(digests(&unnamed), set(&signed.all()));
    let of_tag = |name_of: &str| {
        entries.iter().find(|entry| name(entry).as_deref() == Some(name_of)).unwrap()["digest"].as_str().unwrap().to_owned()
    };
    let blob = |digest: &str| program.read(&format!("store/blobs/{}", digest.replace(':', "/")));
    let listing: Value = serde_json::from_str(&blob(&of_tag(&tag(&signed.image, "")))).unwrap();
    assert_eq!(digests(&listing), set(&[&signed.signature, &signed.sbom]));
    assert!(
        listing["manifests"].as_array().unwrap().iter().all(|entry| entry["artifactType"].is_string() && entry["annotations"].is_object())
    );

    upstream.reset_log();
    let again = program.sync_list().exits(0);
    assert_eq!((&row(&again)["status"], &row(&again)["referrers"], upstream.count(Kind::ManifestGet)), (&"current".into(), &4.into(), 0));
    assert!(
        program.run(&["gc", "store", "--dry-run"]).exits(0).stdout.lines().all(|line| !line.starts_with("sha256:")),
        "nothing is to be removed"
    );

    // The image moves on: what was about the old one is nobody's.
    simple(&upstream, "app", "v1", 50);
    program.sync_list().exits(0);
    program.run(&["gc", "store"]).exits(0);
    let index: Value = serde_json::from_str(&program.read("store/index.json")).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    assert!(!program.path(&format!("store/blobs/{}", signed.sbom.digest.as_str().replace(':', "/"))).exists());
    program.run(&["verify", "store"]).exits(0);
}

fn registry_client() -> oci_client::Client {
    let _ = client();
    let config = oci_client::client::ClientConfig { protocol: oci_client::client::ClientProtocol::Http, ..Default::default() };
    oci_client::Client::try_from(config).unwrap()
}

#[tokio::test]
async fn into_docker_registry_read_back_by_other_peoples_tools() {
    let (Some(from), Some(to)) = (DockerRegistry::start(), DockerRegistry::start()) else { return };
    let push = Push::to(from.addr());
    let signed = Signed::put(&push);
    put_fallback(&push, "app", &signed.image, &[&signed.signature, &signed.sbom]);
    put_fallback(&push, "app", &signed.sbom, &[&signed.countersignature]);
    let cosign = cosign_signature(&push, "app", &signed.image);
    let program = Program::new();
    configure(&program, &format!("registry = \"{}\"", to.addr()), &from.addr(), "");
    program.list([format!("{}/app:v1", from.addr())]);
    let run = program.sync_list().exits(0);
    // The image, two indexes, three referrers and cosign's signature.
    assert_eq!((&row(&run)["referrers"], &row(&run)["pulls"]), (&4.into(), &7.into()));

    let client = registry_client();
    for (subject, referrers) in [(&signed.image, vec![&signed.signature, &signed.sbom]), (&signed.sbom, vec![&signed.countersignature])] {
        let reference = format!("{}/m/app@{}", to.addr(), subject.digest).parse().unwrap();
        client.auth(&reference, &RegistryAuth::Anonymous, oci_client::RegistryOperation::Pull).await.unwrap();
        let index = client.pull_referrers(&reference, None).await.unwrap();
        let found: BTreeSet<String> = index.manifests.iter().map(|entry| entry.digest.clone()).collect();
        assert_eq!(found, set(&referrers));
        assert!(index.manifests.iter().all(|entry| entry.annotations.is_some()));
        let sboms = client.pull_referrers(&reference, Some(SBOM)).await.unwrap();
        assert_eq!(sboms.manifests.len(), referrers.iter().filter(|of| of.digest == signed.sbom.digest).count());
    }
    if require("skopeo") {
        let image = format!("docker://{}/m/app:sha256-{}.sig", to.addr(), signed.image.digest.encoded());
        let raw = skopeo_ok(["inspect", "--raw", "--tls-verify=false", &image]).unwrap();
        assert_eq!(Digest::sha256(raw.as_bytes()), cosign.digest);
        let image = format!("docker://{}/m/app:{}", to.addr(), fallback_tag(&signed.image.digest));
        let raw = skopeo_ok(["inspect", "--raw", "--tls-verify=false", &image]).unwrap();
        assert_eq!(digests(&serde_json::from_str(&raw).unwrap()), set(&[&signed.signature, &signed.sbom]));
    }
    let again = program.sync_list().exits(0);
    assert_eq!((&row(&again)["status"], &row(&again)["referrers"], &row(&again)["pulls"]), (&"current".into(), &4.into(), &0.into()));
    assert_eq!(again.registry(&from.addr())["requests"]["manifest_get"], 0);
}

/// An index of two platforms, signed as a whole, each child with an SBOM.
fn two_platforms(upstream: &Fake) -> (Descriptor, Vec<Descriptor>, Vec<Descriptor>) {
    let index = multi(upstream, "app", "v1", 3, &["linux/amd64", "linux/arm64"]);
    let (_, bytes) = upstream.manifest("app", "v1").unwrap();
    let children: Vec<Descriptor> = serde_json::from_value(serde_json::from_slice::<Value>(&bytes).unwrap()["manifests"].clone()).unwrap();
    artifact(upstream, "app", None, SIGNATURE, "of the index", Some(&index));
    cosign_signature(upstream, "app", &index);
    let sboms = children.iter().map(|child| artifact(upstream, "app", None, SBOM, child.digest.to_string(), Some(child))).collect();
    (index, children, sboms)
}

#[test]
fn what_is_about_an_index_stays_behind_when_the_index_is_rewritten() {
    let (upstream, target) = (Fake::start(), Fake::start());
    let program = ready(&target, &upstream, "platforms = [\"linux/amd64\"]");
    let (index, children, sboms) = two_platforms(&upstream);
    program.list([upstream.image("app:v1")]);
    let run = program.sync_list().exits(0);
    assert_eq!((&row(&run)["status"], &row(&run)["referrers"], &row(&run)["pulls"]), (&"copied".into(), &1.into(), &3.into()));
    let note = "2 referrers of the source index are not carried: the index delivered is another, cut to the platforms asked for";
    assert_eq!(row(&run)["notes"], json!([note]));
    let there = Push::to(target.addr());
    assert_eq!(listed(&there, "m/app", &children[0].digest), set(&[&sboms[0]]));
    assert!(target.manifest("m/app", index.digest.as_str()).is_none() && target.manifest("m/app", sboms[1].digest.as_str()).is_none());
    assert_eq!(target.tags("m/app"), ["v1"]);
    // A quiet night; also without the state.
    for state_lost in [false, true] {
        if state_lost {
            std::fs::remove_dir_all(program.path("home/state")).unwrap();
        }
        upstream.reset_log();
        let again = program.sync_list().exits(0);
        assert_eq!(
            (&row(&again)["status"], &row(&again)["referrers"], upstream.count(Kind::ManifestGet)),
            (&"current".into(), &1.into(), 0)
        );
    }
    let late = artifact(&upstream, "app", None, SIGNATURE, "late", Some(&children[0]));
    artifact(&upstream, "app", None, SIGNATURE, "late, of the index", Some(&index));
    let run = program.sync_list().exits(0);
    assert_eq!(
        (&row(&run)["status"], &row(&run)["notes"], &row(&run)["pulls"]),
        (&"current".into(), &json!(["1 new referrer"]), &1.into())
    );
    assert_eq!(listed(&there, "m/app", &children[0].digest), set(&[&sboms[0], &late]));
}

#[test]
fn a_sparse_index_keeps_its_own_referrers_and_those_of_the_children_kept() {
    let (upstream, program) = (Fake::start(), Program::new());
    configure(&program, "layout = \"store\"", &upstream.addr(), "platforms = [\"linux/arm64\"]\nindex = \"sparse\"");
    let (_, _, sboms) = two_platforms(&upstream);
    program.list([upstream.image("app:v1")]);
    let run = program.sync_list().exits(0);
    assert_eq!((&row(&run)["status"], &row(&run)["referrers"], &row(&run)["pulls"]), (&"copied".into(), &3.into(), &5.into()));
    let blob = |digest: &Digest| program.path(&format!("store/blobs/{}", digest.as_str().replace(':', "/"))).exists();
    assert!(blob(&sboms[1].digest) && !blob(&sboms[0].digest));
    program.run(&["verify", "store"]).exits(0);
    upstream.reset_log();
    let again = program.sync_list().exits(0);
    assert_eq!((&row(&again)["status"], &row(&again)["referrers"], upstream.count(Kind::ManifestGet)), (&"current".into(), &3.into(), 0));
}

#[test]
fn circles_end_and_endless_chains_and_lists_are_refused() {
    let (upstream, target) = (Fake::start(), Fake::start());
    let program = ready(&target, &upstream, "");
    // A manifest that is its own signature, by cosign's tags.
    let round = simple(&upstream, "app", "round", 1);
    upstream.tag("app", &format!("sha256-{}.sig", round.digest.encoded()), &round.digest);
    // Each signed by the next.
    let mut chain = simple(&upstream, "app", "chain", 2);
    for number in 0..10 {
        chain = artifact(&upstream, "app", None, SIGNATURE, format!("signature {number}"), Some(&chain));
    }
    program.list(["app:round", "app:chain"].map(|image| upstream.image(image)));
    let run = program.sync_list().exits(1);
    assert_eq!((&run.images()[0]["status"], &run.images()[0]["referrers"]), (&"copied".into(), &1.into()));
    assert!(run.error()["message"].as_str().unwrap().starts_with("referrers refer to each other more than 8 deep"), "{}", run.error());

    let upstream = Fake::with(Options { referrers: false, ..Options::default() });
    let program = ready(&target, &upstream, "");
    let many = simple(&upstream, "app", "many", 3);
    let invented: Vec<Descriptor> = (0..1001u32).map(|n| Descriptor::new(OCI_IMAGE, Digest::sha256(&n.to_le_bytes()), 500)).collect();
    put_fallback(&upstream, "app", &many, &invented.iter().collect::<Vec<_>>());
    program.list([upstream.image("app:many")]);
    let run = program.sync_list().exits(1);
    assert!(run.error()["message"].as_str().unwrap().starts_with("the image has more than 1000 referrers"), "{}", run.error());
    assert_eq!(upstream.count(Kind::ManifestGet), 2, "the image and the index");
}

#[test]
fn with_one_request_at_a_time_referrers_do_not_lock_a_run_up() {
    for api in [true, false] {
        let options = Options { referrers: api, ..Options::default() };
        let (upstream, target) = (Fake::with(options.clone()), Fake::with(options));
        let program = ready(&target, &upstream, "");
        let images: Vec<String> = (0..6)
            .map(|number| {
                let name = format!("app{number}");
                let image = simple(&upstream, &name, "v1", number + 1);
                let referrers: Vec<Descriptor> =
                    (0..20).map(|n| artifact(&upstream, &name, None, SBOM, format!("{number} {n}"), Some(&image))).collect();
                cosign_signature(&upstream, &name, &image);
                if !api {
                    put_fallback(&upstream, &name, &image, &referrers.iter().collect::<Vec<_>>());
                }
                upstream.image(&format!("{name}:v1"))
            })
            .collect();
        program.list(images);
        let run = program.sync(&["list.txt", "--concurrency", "1"]).exits(0);
        assert!(run.images().iter().all(|row| row["referrers"] == 21), "{:?}", run.images());
        assert_eq!((upstream.max_in_flight(), target.max_in_flight()), (1, 1));
    }
}

/// A running `larder serve store`, and its address.
fn serve(program: &Program) -> (crate::support::program::Started, String) {
    let running = program.start(&["serve", "store", "--listen", "127.0.0.1:0"]);
    let mut said = String::new();
    assert!(crate::support::room::until(|| {
        said = program.read("said.txt");
        said.contains('(')
    }));
    let url = said.split_whitespace().find(|word| word.contains("://")).unwrap();
    (running, url.split_once("://").unwrap().1.to_owned())
}

#[test]
fn a_layout_that_is_served_has_them_all_and_others_are_filled_from_it() {
    let (upstream, program, target) = (Fake::start(), Program::new(), Fake::start());
    configure(&program, "layout = \"store\"", &upstream.addr(), "");
    let signed = Signed::put(&upstream);
    let cosign = cosign_signature(&upstream, "app", &signed.image);
    program.list([upstream.image("app:v1")]);
    program.sync_list().exits(0);
    let (_running, address) = serve(&program);
    assert_eq!(listed(&Push::to(address.clone()), "m/app", &signed.image.digest), set(&[&signed.signature, &signed.sbom]));

    let next = Program::new();
    configure(&next, &format!("registry = \"{}\"", target.addr()), &address, "");
    next.list([format!("{address}/m/app:v1")]);
    let run = next.sync_list().exits(0);
    assert_eq!((&row(&run)["referrers"], &row(&run)["pulls"]), (&4.into(), &5.into()));
    let there = Push::to(target.addr());
    assert_eq!(listed(&there, "m/m/app", &signed.image.digest), set(&[&signed.signature, &signed.sbom]));
    assert_eq!(listed(&there, "m/m/app", &signed.sbom.digest), set(&[&signed.countersignature]));
    assert_eq!(target.digest("m/m/app", &format!("sha256-{}.sig", signed.image.digest.encoded())), Some(cosign.digest));
}
