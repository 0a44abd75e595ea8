//! What a run says of itself: the report, its sums against the registries' own logs, and the list of what failed.

use std::collections::BTreeSet;

use crate::support::corpus::{ImageSpec, image, multi, simple};
use crate::support::fake::{Auth, Fake, Fault, Kind, Match, Options};
use crate::support::layer::layer;
use crate::support::program::Program;
use crate::support::room::Room;
use larder::content::Digest;
use serde_json::{Value, json};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Sorted, as [`keys`] gives them.
fn sorted<'a>(names: &[&'a str]) -> Vec<&'a str> {
    names.iter().copied().collect::<BTreeSet<_>>().into_iter().collect()
}

/// The names of a JSON object in the order in which they are written.
fn written_order(text: &str, names: &[&str]) -> bool {
    let places: Vec<Option<usize>> = names.iter().map(|name| text.find(&format!("\"{name}\":"))).collect();
    places.iter().all(Option::is_some) && places.is_sorted()
}

const IMAGE: [&str; 17] = [
    "source",
    "target",
    "rule",
    "file",
    "line",
    "status",
    "digest",
    "source_digest",
    "platforms",
    "referrers",
    "bytes",
    "pulls",
    "seconds",
    "notes",
    "reason",
    "until",
    "error",
];

#[test]
fn the_json_report_is_the_contracts() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    let made = multi(&upstream, "app", "v1", 1, &["linux/amd64", "linux/arm/v7"]);
    program.list([upstream.image("app:v1"), upstream.image("app:gone"), "not an image".to_owned()]);
    let run = program.sync_list().exits(1);

    let report = &run.report;
    assert_eq!(keys(report), sorted(&["version", "command", "started", "finished", "exit", "target", "totals", "images", "registries"]));
    assert_eq!((&report["version"], &report["command"], &report["exit"]), (&json!(1), &json!("sync"), &json!(1)));
    assert_eq!(report["target"], target.addr());
    for time in ["started", "finished"] {
        let time = report[time].as_str().unwrap();
        assert!(time.len() >= 20 && time.ends_with('Z') && &time[10..11] == "T", "{time}");
    }
    let totals = [
        "images",
        "copied",
        "current",
        "warmed",
        "deferred",
        "failed",
        "bytes_read",
        "bytes_written",
        "blobs_copied",
        "blobs_mounted",
        "blobs_present",
    ];
    assert_eq!(keys(&report["totals"]), sorted(&totals));
    assert!(written_order(
        &program.read("report.json"),
        &["version", "command", "started", "finished", "exit", "target", "totals", "images", "registries"]
    ));

    let [copied, gone, wrong] = run.images() else { panic!("{report}") };
    assert_eq!(keys(copied), sorted(&IMAGE));
    let seconds = copied["seconds"].as_f64().unwrap();
    assert!(seconds > 0.0 && seconds < 60.0);
    let mut row = copied.clone();
    row["seconds"] = Value::Null;
    assert_eq!(
        row,
        json!({"source": upstream.image("app:v1"), "target": target.image("m/app:v1"), "rule": "u0", "file": "list.txt", "line": 1,
            "status": "copied", "digest": made.digest, "source_digest": made.digest, "platforms": ["linux/amd64", "linux/arm/v7"],
            "referrers": 0, "bytes": upstream.bytes_sent() - not_found_bytes(&upstream), "pulls": 3, "seconds": null, "notes": [], "reason": null,
            "until": null, "error": null})
    );
    assert_eq!(keys(&gone["error"]), sorted(&["side", "operation", "status", "code", "message"]));
    assert_eq!((&gone["status"], &gone["error"]["code"]), (&json!("failed"), &json!("MANIFEST_UNKNOWN")));
    assert_eq!((gone["digest"].clone(), gone["target"].as_str()), (Value::Null, Some(target.image("m/app:gone").as_str())));
    assert_eq!((wrong["source"].as_str(), wrong["target"].as_str(), wrong["line"].as_u64()), (Some("not an image"), Some(""), Some(3)));
    assert_eq!((&wrong["error"]["side"], wrong["error"]["status"].clone()), (&json!("local"), Value::Null));

    let hosts: BTreeSet<String> =
        report["registries"].as_array().unwrap().iter().map(|row| row["host"].as_str().unwrap().to_owned()).collect();
    assert_eq!(hosts, BTreeSet::from([upstream.addr(), target.addr()]));
    let row = run.registry(&upstream.addr());
    assert_eq!(keys(row), sorted(&["host", "account", "requests", "throttled", "retries", "waited_seconds", "pulls"]));
    assert_eq!((&row["account"], &row["pulls"]), (&json!("anonymous"), &Value::Null));
    let kinds =
        ["manifest_head", "manifest_get", "manifest_put", "blob_head", "blob_get", "blob_put", "mount", "tags", "referrers", "token"];
    assert_eq!(keys(&row["requests"]), sorted(&kinds));
}

/// Body bytes of answers that brought no content.
fn not_found_bytes(registry: &Fake) -> u64 {
    registry.requests().iter().filter(|request| request.status != Some(200)).map(|request| request.bytes_out).sum()
}

#[test]
fn the_csv_report_has_a_row_an_image_and_the_same_columns() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    let made = multi(&upstream, "app", "v1", 1, &["linux/amd64", "linux/arm64"]);
    program.list([upstream.image("app:v1"), upstream.image("app:gone")]);
    let run = program.sync(&["list.txt", "--report", "report.csv"]).exits(1);

    let mut reader = csv::Reader::from_path(program.path("report.csv")).unwrap();
    let header: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let expected = "source,target,rule,file,line,status,digest,source_digest,platforms,referrers,bytes,pulls,seconds,notes,reason,until,\
                    error_side,error_operation,error_status,error_code,error_message";
    assert_eq!(header.join(","), expected);
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 2);
    let field = |row: usize, name: &str| rows[row].get(header.iter().position(|column| column == name).unwrap()).unwrap().to_owned();
    assert_eq!(
        (field(0, "status"), field(0, "digest"), field(0, "platforms")),
        ("copied".into(), made.digest.to_string(), "linux/amd64;linux/arm64".into())
    );
    assert_eq!((field(1, "status"), field(1, "error_side"), field(1, "error_status")), ("failed".into(), "upstream".into(), "404".into()));
    // Two reports of one run agree.
    for (number, row) in run.images().iter().enumerate() {
        for column in ["source", "target", "rule", "status"] {
            assert_eq!(row[column].as_str().unwrap(), field(number, column));
        }
        for column in ["line", "bytes", "pulls"] {
            assert_eq!(row[column].to_string(), field(number, column));
        }
    }
    assert_eq!(run.images()[1]["error"]["message"].as_str().unwrap(), field(1, "error_message"));
}

#[test]
fn totals_are_the_sums_of_their_rows_and_of_what_the_registries_saw() {
    let upstream = Fake::start();
    let target = Fake::with(Options { auth: Auth::tokens("ci", "pass"), ..Options::default() });
    let program = Program::new();
    let set = format!(
        "[[credentials]]\nname = \"to\"\nlogin_server = \"{}\"\nusername = \"ci\"\npassword = {{ command = [\"echo\", \"pass\"] }}\n",
        target.addr()
    );
    program.write("larder.toml", crate::support::program::configuration(&target.addr(), &[&upstream]) + &set);
    let shared = layer(5, 20_000);
    for number in 0..6 {
        image(&upstream, &format!("app{number}"), Some("v1"), &ImageSpec::new([shared.clone(), layer(10 + number, 300)]));
    }
    for number in 0..5 {
        simple(&upstream, "tagged", &format!("v{number}"), 50 + number);
    }
    // Answers that are no content are requests too.
    upstream.fault(Match::kind(Kind::BlobGet), 1, Fault::status(500));
    target.fault(Match::kind(Kind::UploadPost), 1, Fault::status(502));
    let list: Vec<String> = (0..6).map(|number| format!("{},,", upstream.image(&format!("app{number}:v1")))).collect();
    program.write("list.csv", format!("image,tags,exclude\n{}\n{},v*,v4\n", list.join("\n"), upstream.image("tagged")));
    let run = program.sync(&["list.csv"]).exits(0);

    let rows = run.images();
    assert_eq!((run.total("images"), run.total("copied"), rows.len()), (10, 10, 10));
    let sum = |column: &str| rows.iter().map(|row| row[column].as_u64().unwrap()).sum::<u64>();
    assert_eq!(run.total("bytes_read"), sum("bytes"));
    let content = |registry: &Fake, kind: Kind| -> u64 {
        registry
            .requests()
            .iter()
            .filter(|request| request.kind == kind && request.status == Some(200))
            .map(|request| request.bytes_out)
            .sum()
    };
    assert_eq!(run.total("bytes_read"), content(&upstream, Kind::ManifestGet) + content(&upstream, Kind::BlobGet));
    assert_eq!(run.total("bytes_written"), target.bytes_received());
    assert_eq!(sum("pulls"), upstream.count(Kind::ManifestGet) as u64);
    assert_eq!(
        run.total("blobs_mounted"),
        target.count_matching(|request| request.kind == Kind::Mount && request.status == Some(201)) as u64
    );
    assert_eq!(
        run.total("blobs_copied"),
        target.count_matching(|request| request.kind == Kind::UploadPut && request.status == Some(201)) as u64
    );
    assert_eq!(run.total("blobs_mounted"), 5);

    for registry in [&upstream, &target] {
        assert_eq!(run.registry(&registry.addr())["requests"], as_reported(registry), "{}", registry.addr());
    }
    assert_eq!((&run.registry(&upstream.addr())["retries"], &run.registry(&target.addr())["retries"]), (&json!(1), &json!(1)));
    assert_eq!(run.registry(&target.addr())["account"], "to");
}

/// The registry's own log, in the report's words.
fn as_reported(registry: &Fake) -> Value {
    let count = |kinds: &[Kind]| registry.count_matching(|request| kinds.contains(&request.kind));
    json!({
        "manifest_head": count(&[Kind::ManifestHead]), "manifest_get": count(&[Kind::ManifestGet]), "manifest_put": count(&[Kind::ManifestPut]),
        "blob_head": count(&[Kind::BlobHead]), "blob_get": count(&[Kind::BlobGet]),
        "blob_put": count(&[Kind::UploadPost, Kind::UploadPatch, Kind::UploadPut, Kind::UploadDelete]),
        "mount": count(&[Kind::Mount]), "tags": count(&[Kind::Tags]), "referrers": 0, "token": count(&[Kind::Token]),
    })
}

#[test]
fn the_list_of_what_failed_can_be_given_back() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    simple(&upstream, "app", "v1", 1);
    let absent = Digest::sha256(b"not there yet");
    program.write(
        "list.csv",
        format!(
            "image,tags,exclude,target,priority\n{0}:v1,,,,\n{0}:v2,,,moved/app:two,7\n{1},1.*,1.2;1.3,,-1\n{0},v8;v9,,,\n{0}:pin@{absent},,,,\nnot an image,,,,\nquay.io/x/y:1,,,,\n",
            upstream.image("app"),
            upstream.image("listed")
        ),
    );
    let run = program.sync(&["list.csv", "--failed", "failed.csv"]).exits(1);
    assert_eq!((run.total("copied"), run.total("failed")), (1, 7));
    let expected = format!(
        "image,tags,exclude,platforms,target,priority\n{0}:v2,,,,moved/app:two,7\n{1},1.*,1.2;1.3,,,-1\n{0}:v8,,,,,0\n{0}:v9,,,,,0\n{0}:pin@{absent},,,,,0\n\"not an image,,,,\",,,,,0\nquay.io/x/y:1,,,,,0\n",
        upstream.image("app"),
        upstream.image("listed")
    );
    assert_eq!(program.read("failed.csv"), expected);

    // What was missing has come; the list that came out goes in again.
    let two = simple(&upstream, "app", "v2", 2);
    for (number, tag) in ["v8", "v9"].iter().enumerate() {
        simple(&upstream, "app", tag, 3 + number as u64);
    }
    for (number, tag) in ["1.1", "1.2", "1.4"].iter().enumerate() {
        simple(&upstream, "listed", tag, 10 + number as u64);
    }
    let again = program.sync(&["failed.csv", "--failed", "still.csv"]).exits(1);
    assert_eq!((again.total("copied"), again.total("failed")), (5, 3));
    assert_eq!(target.digest("moved/app", "two").unwrap(), two.digest);
    assert_eq!(target.tags("m/listed"), ["1.1", "1.4"]);
    assert_eq!(target.tags("m/app"), ["v1", "v8", "v9"]);
    assert_eq!(program.read("still.csv").lines().count(), 4);
}

#[test]
fn nothing_failed_leaves_a_list_of_nothing() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    simple(&upstream, "app", "v1", 1);
    program.sync(&["--image", &upstream.image("app:v1"), "--failed", "failed.csv"]).exits(0);
    assert_eq!(program.read("failed.csv"), "image,tags,exclude,platforms,target,priority\n");
    // A list without a line is no error, and there is nothing to do.
    let run = program.sync(&["failed.csv"]).exits(0);
    assert_eq!((run.total("images"), run.stderr.contains("0 images: nothing to do")), (0, true));
}

/// What ends a run before its first request is written down too: a monitor that looks at files must see it.
#[test]
fn a_run_that_is_refused_writes_its_report_and_its_metrics() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    let configuration = program.read("larder.toml");
    for command in [&["sync", "list.txt"][..], &["export", "list.txt", "--to", "out"]] {
        for (text, named) in [(format!("{configuration}nonsense = 1\n"), "nonsense"), (configuration.clone(), "list.txt")] {
            program.write("larder.toml", text);
            let written = ["--report", "report.json", "--report", "report.csv", "--metrics", "larder.prom"];
            let run = program.run(&[command, &written].concat()).exits(2);
            assert_eq!(
                (&run.report["exit"], &run.report["command"], &run.report["images"]),
                (&2.into(), &command[0].into(), &serde_json::json!([]))
            );
            let errors = run.report["errors"].as_array().unwrap();
            assert!(errors.len() == 1 && errors[0].as_str().unwrap().contains(named), "{}", run.report);
            assert!(program.read("larder.prom").contains("larder_exit_status 2\n"), "{}", program.read("larder.prom"));
            assert!(program.read("report.csv").starts_with("source,target,"));
        }
    }
    let run = program.run(&["import", "nothing-here", "--to", "oci:far", "--report", "report.json"]).exits(2);
    assert_eq!((&run.report["exit"], &run.report["target"]), (&2.into(), &"oci:far".into()));
    // Where a target cannot be opened, something was attempted.
    program.write("file", "");
    program.list([upstream.image("app:v1")]);
    let run = program.sync(&["list.txt", "--to", "oci:file", "--metrics", "larder.prom"]).exits(1);
    assert_eq!(run.report["exit"], 1);
    assert!(program.read("larder.prom").contains("larder_exit_status 1\n"));
}

#[test]
fn no_output_is_written_over_a_list_or_over_another_output() {
    let fake = Fake::start();
    let room = Room::new();
    room.configure("layout = \"store\"", &[(fake.addr(), "m")]);
    let list = format!("image\n{}\n", fake.image("app:v1"));
    room.write("images.csv", &list);
    for arguments in [
        &["images.csv", "--report", "images.csv"][..],
        &["images.csv", "--failed", "./images.csv"],
        &["images.csv", "--report", "a.csv", "--failed", "a.csv"],
        &["images.csv", "--report", "a.json", "--lock", "a.json"],
    ] {
        let ran = room.larder([&["sync"], arguments].concat()).ended(2);
        assert!(ran.stderr.contains("(name another file)"), "{}", ran.stderr);
        assert_eq!(room.read("images.csv"), list);
    }
    assert_eq!(fake.requests().len(), 0);
    assert!(!room.path("store").exists());
}
