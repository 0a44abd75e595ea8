//! Two lines that choose the same name at the target: the first in the file has it, whichever tag list arrives first.

use std::time::Duration;

use crate::support::corpus::simple;
use crate::support::fake::{FOREVER, Fake, Fault, Gate, Kind, Match};
use crate::support::program::{Program, Run};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// Two upstreams with the tags v1 and v2, and one of their own each.
fn upstreams() -> [Fake; 2] {
    let upstreams = [Fake::start(), Fake::start()];
    for (number, upstream) in upstreams.iter().enumerate() {
        for (seed, tag) in ["v1", "v2", ["v3-only-first", "v3-only-second"][number]].iter().enumerate() {
            simple(upstream, "app", tag, 1 + 10 * number as u64 + seed as u64);
        }
    }
    upstreams
}

/// What a report says of its images, in its order.
fn told(run: &Run) -> Vec<(Value, Value, Value, Value)> {
    let row = |row: &Value| (row["line"].clone(), row["source"].clone(), row["status"].clone(), row["error"]["message"].clone());
    run.images().iter().map(row).collect()
}

#[test]
fn the_first_line_wins_whichever_tag_list_arrives_first() {
    let upstreams = upstreams();
    let [first, second] = &upstreams;
    let mut reports = vec![];
    for late in [0, 1] {
        let (target, program) = (Fake::start(), Program::new());
        program.configure(&target, &[]);
        program.write("list.csv", format!("image,tags,target\n{},v*,app\n{},v*,app\n", first.image("app"), second.image("app")));
        let gate = Gate::closed();
        upstreams[late].fault(Match::kind(Kind::Tags), FOREVER, Fault::Hold(gate.clone()));
        let run = program.start_sync(&["list.csv"]);
        // What only the other line can choose does not wait: nobody else's list decides about it.
        let early = ["v3-only-second", "v3-only-first"][late];
        if late == 1 {
            assert!(target.wait_until(PATIENCE, |requests| {
                requests.iter().any(|request| request.kind == Kind::ManifestPut && request.reference.as_deref() == Some(early))
            }));
        } else {
            assert!(second.wait_until(PATIENCE, |requests| requests.iter().any(|request| request.kind == Kind::Tags)));
        }
        gate.open();
        let run = run.join().unwrap().exits(1);
        upstreams.iter().for_each(Fake::clear_faults);
        upstreams.iter().for_each(Fake::reset_log);
        for tag in ["v1", "v2"] {
            assert_eq!(target.digest("app", tag), first.digest("app", tag), "{tag}, late: {late}");
        }
        assert_eq!(target.digest("app", "v3-only-second"), second.digest("app", "v3-only-second"));
        reports.push(told(&run));
    }
    assert_eq!(reports[0], reports[1], "the report does not depend on who answered first");
    let refused: Vec<&(Value, Value, Value, Value)> = reports[0].iter().filter(|row| row.2 == "failed").collect();
    assert_eq!(refused.len(), 2);
    let message = refused[0].3.as_str().unwrap();
    let expected = format!("list.csv:3: target name app:v1 is already filled from {} (list.csv:2)", first.image("app:v1"));
    assert!(message.starts_with(&expected), "{message}");
    assert_eq!((&refused[0].0, &refused[0].1), (&json!(3), &json!(second.image("app:v1"))));
}

#[test]
fn an_exact_line_waits_only_for_an_earlier_line_that_could_choose_its_name() {
    let upstreams = upstreams();
    let [first, second] = &upstreams;
    let (target, program) = (Fake::start(), Program::new());
    program.configure(&target, &[]);
    let (one, two) = (first.image("app"), second.image("app"));
    program.write("list.csv", format!("image,tags,target\n{one},v1*,app\n{two},v1,app\n{two},v2,app\n"));
    let gate = Gate::closed();
    first.fault(Match::kind(Kind::Tags), FOREVER, Fault::Hold(gate.clone()));
    let run = program.start_sync(&["list.csv"]);
    let is_put = |request: &crate::support::fake::Request| request.kind == Kind::ManifestPut && request.reference.as_deref() == Some("v2");
    assert!(target.wait_until(PATIENCE, |requests| requests.iter().any(is_put)));
    gate.open();
    let run = run.join().unwrap().exits(1);
    assert_eq!(target.digest("app", "v1"), first.digest("app", "v1"));
    assert_eq!(
        run.error()["message"].as_str().unwrap().split(" (").next().unwrap(),
        format!("list.csv:3: target name app:v1 is already filled from {one}:v1")
    );
    // A plan says the same.
    let plan = program.run(&["plan", "list.csv"]).exits(1);
    assert!(plan.stderr.contains("list.csv:3: target name app:v1 is already filled from"), "{}", plan.stderr);
}

#[test]
fn a_name_does_not_change_hands_while_the_first_lines_tags_cannot_be_listed() {
    let upstreams = upstreams();
    let [first, second] = &upstreams;
    let (target, program) = (Fake::start(), Program::new());
    program.configure(&target, &[]);
    let (one, two) = (first.image("app"), second.image("app"));
    program.write("list.csv", format!("image,tags,target\n{one},v1*,app\n{two},*,app\n"));
    first.fault(Match::kind(Kind::Tags), FOREVER, Fault::error(403, "DENIED", "not tonight"));
    let run = program.sync(&["list.csv"]).exits(1);
    assert_eq!(target.tags("app"), ["v2", "v3-only-second"]);
    let row = run.images().iter().find(|row| row["source"] == format!("{two}:v1")).unwrap();
    let message = row["error"]["message"].as_str().unwrap();
    assert!(
        message.starts_with(&format!("list.csv:3: target name app:v1 may belong to {one} (list.csv:2), whose tags are not known")),
        "{message}"
    );
}
