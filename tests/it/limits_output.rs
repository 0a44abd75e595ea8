//! What is told before a pull is spent, by `larder plan` and `larder limits`; and afterwards, by the summary.

use crate::support::fake::{ANONYMOUS, Auth, Fake, Kind, Options, Pulls};
use crate::support::limited::{LONG, limited, multis, singles};
use crate::support::program::{Program, configuration};
use serde_json::Value;

/// What differs from run to run: ports, digests, times, sizes.
fn filters() -> Vec<(&'static str, &'static str)> {
    vec![
        (r"127\.0\.0\.1:\d+", "[registry]"),
        (r"\[registry\] {2,}", "[registry]  "),
        (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "[time]"),
        (r"\b[0-9a-f]{12}\b", "[digest]"),
        (r"[0-9.]+ h\b", "[hours] h"),
        (r"\b(59|60) min\b", "[hours] h"),
        (r"[A-Z][a-z][a-z] \d\d:\d\dZ", "[opens]"),
        (r"[0-9.]+ [kM]?B (read|written)", "[size] $1"),
        (r"in [0-9.]+ s;", "in [seconds] s;"),
    ]
}

#[test]
fn a_plan_tells_pulls_windows_and_hours_and_spends_none() {
    let (upstream, target, program) = (limited(10, LONG), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    let images = singles(&upstream, 4);
    program.list(images[..1].to_vec());
    program.sync_list().exits(0);
    program.list(images.into_iter().chain(multis(&upstream, 2)));
    upstream.reset_log();

    let plan = program.run(&["plan", "list.txt"]).exits(0);
    insta::with_settings!({filters => filters()}, {
        insta::assert_snapshot!(plan.stdout, @r"
        current      [registry]/app:v000   [registry]/m/app:v000  [digest]
        missing      [registry]/app:v001   [registry]/m/app:v001  [digest]
        missing      [registry]/app:v002   [registry]/m/app:v002  [digest]
        missing      [registry]/app:v003   [registry]/m/app:v003  [digest]
        missing      [registry]/multi0:v1  [registry]/m/multi0:v1  [digest]
        missing      [registry]/multi1:v1  [registry]/m/multi1:v1  [digest]
        ");
        insta::assert_snapshot!(plan.stderr, @r"
        6 images: 1 current, 5 missing, 0 moved, 0 unresolvable; no pull was spent
        [registry] (anonymous): about 11 (at most 13) pulls for 5 images; 9 of 10 left: 2 windows, [hours] h; now 4 images, later 1; 5 images of unknown size
        [registry] (anonymous): now 4 images, [opens] 1
        ");
    });
    assert_eq!((upstream.pulls(ANONYMOUS), upstream.count(Kind::ManifestGet)), (1, 0));

    let plan = program.run(&["plan", "list.txt", "--format", "json"]).exits(0);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(plan["totals"], serde_json::json!({"images": 6, "current": 1, "missing": 5, "moved": 0, "unresolvable": 0}));
    let images: Vec<_> = plan["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| ["pulls", "pulls_at_most", "bytes_unknown"].map(|key| image[key].as_u64()))
        .collect();
    // An index of three platforms has 750 bytes or so: four children at most.
    let (one, unseen) = ([Some(1), Some(1), Some(1)], [Some(4), Some(5), Some(1)]);
    assert_eq!(images, [[None, None, Some(0)], one, one, one, unseen, unseen]);
    let mut account = plan["accounts"][0].clone();
    let closes: jiff::Timestamp = account["closes"].as_str().unwrap().parse().unwrap();
    let hours = account["hours"].as_f64().unwrap();
    // What is left of this window.
    assert!((0.9..=1.0).contains(&hours), "{hours}");
    let schedule = account["schedule"].as_array().unwrap();
    let told: Vec<_> = schedule.iter().map(|window| (window["images"].as_u64(), window["pulls"].as_u64())).collect();
    assert_eq!((told, &schedule[0]["opens"]), (vec![(Some(4), Some(7)), (Some(1), Some(4))], &Value::Null));
    assert_eq!(schedule[1]["opens"], account["closes"]);
    assert!((3400..=3600).contains(&closes.duration_since(jiff::Timestamp::now()).as_secs()), "{closes}");
    account.as_object_mut().unwrap().retain(|key, _| !["closes", "hours", "schedule"].contains(&key.as_str()));
    assert_eq!(
        account,
        serde_json::json!({
            "host": upstream.addr(), "account": "anonymous", "source": "127.0.0.1", "images": 5, "pulls": 11, "pulls_at_most": 13, "exact": false,
            "bytes": 0, "bytes_unknown": 5, "limit": 10, "left": 9, "window_seconds": 3600, "windows": 2, "tonight": 4, "later": 1,
        })
    );
    assert_eq!((upstream.pulls(ANONYMOUS), upstream.count(Kind::ManifestGet)), (1, 0));
}

#[test]
fn a_plan_is_exact_where_the_state_or_the_target_knows() {
    let (upstream, target, program) = (limited(6, LONG), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.list(multis(&upstream, 2));
    // One is delivered; of the other, the index is read, and kept.
    let run = program.sync_list().exits(3);
    assert_eq!(run.total("copied"), 1);
    let plan = || -> Value { serde_json::from_str(&program.run(&["plan", "list.txt", "--format", "json"]).exits(0).stdout).unwrap() };
    let account = &plan()["accounts"][0];
    let needed = 8 - upstream.pulls(ANONYMOUS);
    assert_eq!((&account["pulls"], &account["exact"], &account["windows"]), (&needed.into(), &true.into(), &2.into()), "{account}");
    upstream.end_windows();
    program.sync_list().exits(0);
    assert_eq!(upstream.pulls(ANONYMOUS), 8);
    let account = &plan()["accounts"][0];
    assert_eq!(
        (&account["pulls"], &account["images"], &account["windows"], &account["hours"]),
        (&0.into(), &0.into(), &1.into(), &0.0.into())
    );
}

#[test]
fn limits_tell_what_is_left_and_to_whom_and_spend_nothing() {
    let hub = Fake::with(Options { pulls: Some(Pulls::new(200, LONG)), auth: Auth::basic("ci", "pass"), ..Options::default() });
    // Nobody may ask it without a login, and there is none.
    let closed = Fake::with(Options { auth: Auth::basic("ci", "pass"), ..Options::default() });
    let (free, target, mut program) = (Fake::start(), Fake::start(), Program::new());
    program.set("PASSWORD", "pass");
    let mut text = "lists = [\"list.txt\"]\n".to_owned() + &configuration(&target.addr(), &[&hub, &free, &closed]);
    text += &format!(
        "[[credentials]]\nname = \"hub\"\nlogin_server = \"{}\"\nusername = \"ci\"\npassword = {{ env = \"PASSWORD\" }}\n",
        hub.addr()
    );
    program.write("larder.toml", text);
    let lists = [&hub, &free, &closed].map(|upstream| singles(upstream, 2));
    program.list(lists.into_iter().flatten());
    hub.spend_pulls("ci", 139);

    // As they are, each on its own: ports decide their order.
    let table = |registry: &Fake, code| program.run(&["limits", &registry.addr()]).exits(code);
    insta::with_settings!({filters => filters()}, {
        insta::assert_snapshot!(table(&hub, 0).stdout, @"[registry]  hub          61 of 200 pulls left per [hours] h, counted for account-of-ci, window ends [time] at the latest");
        insta::assert_snapshot!(table(&free, 0).stdout, @"[registry]  anonymous    no pull limit known");
    });
    let failed = table(&closed, 1);
    insta::with_settings!({filters => filters()}, {
        insta::assert_snapshot!(failed.stdout, @"[registry]  ?            could not be asked");
    });
    assert!(failed.stderr.starts_with("error: upstream: ") && failed.stderr.contains(&closed.addr()), "{}", failed.stderr);

    let all = program.run(&["limits", "--format", "json"]).exits(1);
    let all: Value = serde_json::from_str(&all.stdout).unwrap();
    let row =
        |registry: &Fake| all["accounts"].as_array().unwrap().iter().find(|row| row["host"] == registry.addr().as_str()).unwrap().clone();
    let mut counted = row(&hub);
    let closes: jiff::Timestamp = counted["closes"].take().as_str().unwrap().parse().unwrap();
    assert!(closes > jiff::Timestamp::now());
    assert_eq!(
        counted,
        serde_json::json!({
            "host": hub.addr(), "account": "hub", "source": "account-of-ci", "limit": 200, "remaining": 61,
            "window_seconds": 3600, "closes": null, "unlimited": false, "error": null,
        })
    );
    assert_eq!((&row(&free)["unlimited"], &row(&free)["limit"], &row(&free)["account"]), (&true.into(), &Value::Null, &"anonymous".into()));
    assert!(row(&closed)["error"].as_str().unwrap().contains(&closed.addr()));
    assert_eq!((all["version"].as_u64(), hub.pulls("ci"), hub.count(Kind::ManifestGet)), (Some(1), 0, 0));
}

#[test]
fn limits_of_a_registry_without_a_known_image_say_what_to_do() {
    let (upstream, program) = (limited(5, LONG), Program::new());
    let run = program.run(&["limits", &upstream.addr()]).exits(1);
    assert!(run.stderr.contains("there is no image to ask about (set `lists` in larder.toml"), "{}", run.stderr);
    let run = program.run(&["limits", "not a host"]).exits(2);
    assert!(run.stderr.starts_with("error: "), "{}", run.stderr);
    program.run(&["limits"]).exits(2);
}

#[test]
fn the_summary_says_pulls_spent_and_left() {
    let (upstream, target, program) = (limited(3, LONG), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    program.list(singles(&upstream, 5));
    let run = program.sync_list().exits(3);
    let lines: Vec<&str> = run.stderr.lines().collect();
    let summary = lines[lines.len() - 5..].join("\n");
    insta::with_settings!({filters => filters()}, {
        insta::assert_snapshot!(summary, @r"
        5 images: 3 copied, 2 deferred
        [size] read, [size] written in [seconds] s; blobs: 9 copied, 0 mounted, 0 present
        pulls spent: [registry] 3
        [registry] (anonymous): 0 of 3 pulls left
        unfinished: [registry] (anonymous): the pull window is spent (0 left, 1 needed), until [time] at the latest; the same command goes on where this one stopped
        ");
    });
}
