//! Who larder says it is, to whom, how often, and that nobody else learns it.

use std::time::Duration;

use crate::support::corpus::{base64, simple};
use crate::support::fake::{self, Auth, Fake, Fault, Gate, Kind, Match, Options, Redirect, Request, Tokens};
use crate::support::program::{Program, Run, configuration};
use crate::support::room::PATIENCE;

/// Not to be seen anywhere but at the registry.
const SECRET: &str = "s3cr3t-Pa55word";

fn registry(auth: Auth) -> Fake {
    Fake::with(Options { auth, ..Options::default() })
}

fn tokens(change: impl FnOnce(&mut Tokens)) -> Fake {
    let mut tokens = Tokens { users: vec![("ci".to_owned(), SECRET.to_owned())], anonymous: false, ..Tokens::default() };
    change(&mut tokens);
    registry(Auth::Token(tokens))
}

/// A credential set for `registry`, whose password is to be had as `password` says.
fn set(registry: &Fake, password: &str) -> String {
    let server = registry.addr();
    format!("[[credentials]]\nname = \"ci-set\"\nlogin_server = \"{server}\"\nusername = \"ci\"\npassword = {password}\n")
}

/// A program that fills `target` from `upstream` with images `app:v0` to `app:v<images>`, and knows `sets`.
fn program(upstream: &Fake, target: &Fake, images: u64, sets: &str) -> Program {
    let program = Program::new();
    program.write("larder.toml", configuration(&target.addr(), &[upstream]) + sets);
    program.list((0..images).map(|number| upstream.image(&format!("app:v{number}"))));
    for number in 0..images {
        simple(upstream, "app", &format!("v{number}"), number + 1);
    }
    program
}

/// No output and no file of the run holds the secret, nor its base64 form.
#[track_caller]
fn kept_secret(program: &Program, run: &Run, account: &str) {
    let encoded = base64(format!("{account}:{SECRET}").as_bytes());
    let mut written = vec![("stdout".to_owned(), run.stdout.clone()), ("stderr".to_owned(), run.stderr.clone())];
    written.push(("report".to_owned(), run.report.to_string()));
    for folder in ["home", "."] {
        for entry in std::fs::read_dir(program.path(folder)).into_iter().flatten().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            if name.ends_with(".json") || name.ends_with(".csv") {
                written.push((name, std::fs::read_to_string(entry.path()).unwrap()));
            }
        }
    }
    for (name, text) in written {
        assert!(!text.contains(SECRET) && !text.contains(&encoded), "{name} has the secret:\n{text}");
        assert!(!text.contains("token-1-of-"), "{name} has a token:\n{text}");
    }
}

#[test]
fn basic_is_answered_with_the_set_and_the_secret_is_said_nowhere() {
    let (upstream, target) = (registry(Auth::basic("ci", SECRET)), Fake::start());
    let mut program = program(&upstream, &target, 20, &set(&upstream, "{ env = \"HUB_PASSWORD\" }"));
    program.set("HUB_PASSWORD", SECRET);
    let run = program.sync(&["list.txt", "-vv", "--report", "report.csv"]).exits(0);
    assert_eq!(run.total("copied"), 20);
    assert_eq!(upstream.count(Kind::Token), 0);
    assert_eq!(run.registry(&upstream.addr())["account"], "ci-set");
    assert!(run.stderr.lines().count() > 100, "-vv says much");
    kept_secret(&program, &run, "ci");
}

#[test]
fn every_spelling_of_a_challenge_is_understood() {
    let two = [r#"Negotiate"#, fake::QUOTED];
    let table: [(&str, &[&str]); 8] = [
        ("quoted", &[fake::QUOTED]),
        ("unquoted", &[fake::UNQUOTED]),
        ("no service", &[fake::NO_SERVICE]),
        ("empty scope", &[fake::EMPTY_SCOPE]),
        ("no scope", &[fake::NO_SCOPE]),
        ("basic and bearer", &[fake::BASIC_AND_BEARER]),
        ("lower case", &[fake::LOWER_CASE]),
        ("two headers", &two),
    ];
    for (name, challenges) in table {
        for (field, expires_in) in [("token", Some(300)), ("access_token", None)] {
            let auth = |tokens: &mut Tokens| {
                tokens.challenges = challenges.iter().map(|&challenge| challenge.to_owned()).collect();
                (tokens.field, tokens.expires_in) = (field, expires_in);
            };
            let (upstream, target) = (tokens(auth), tokens(auth));
            let both = set(&upstream, "{ env = \"P\" }") + &set(&target, "{ env = \"P\" }").replace("ci-set", "to-set");
            let mut program = program(&upstream, &target, 2, &both);
            program.set("P", SECRET);
            let run = program.sync(&["list.txt", "-vv"]);
            assert_eq!(run.code, 0, "{name} {field}: {}", run.stderr);
            kept_secret(&program, &run, "ci");
            // One to pull the upstream's repository, one to look at the target's and one to push into it.
            let asked = (upstream.count(Kind::Token), target.count(Kind::Token));
            assert!(asked.0 == 1 && asked.1 <= 2, "{name} {field}: {asked:?}");
        }
    }
}

#[test]
fn anonymous_tokens_are_asked_for_without_credentials() {
    let upstream = tokens(|tokens| tokens.anonymous = true);
    let target = Fake::start();
    program(&upstream, &target, 3, "").sync_list().exits(0);
    assert_eq!(upstream.count_matching(|request| request.kind == Kind::Token && request.authorized()), 0);
    assert_eq!(upstream.count(Kind::Token), 1);
}

#[test]
fn an_identity_token_of_docker_login_goes_by_post() {
    let upstream = tokens(|tokens| tokens.identity_tokens = vec![(SECRET.to_owned(), "ci".to_owned())]);
    let target = Fake::start();
    let program = program(&upstream, &target, 3, "");
    let auth = base64(b"00000000-0000-0000-0000-000000000000:");
    program.write(
        "home/.docker/config.json",
        format!(r#"{{"auths":{{"{}":{{"auth":"{auth}","identitytoken":"{SECRET}"}}}}}}"#, upstream.addr()),
    );
    let run = program.sync(&["list.txt", "-vv"]).exits(0);
    assert_eq!(run.total("copied"), 3);
    let asked: Vec<Request> = upstream.requests().into_iter().filter(|request| request.kind == Kind::Token).collect();
    assert!(asked.iter().all(|request| request.method == "POST" && !request.authorized() && request.query.is_empty()), "{asked:?}");
    assert_eq!(asked.len(), 1);
    kept_secret(&program, &run, "00000000-0000-0000-0000-000000000000");
}

#[test]
fn a_credential_helper_on_the_path_is_asked() {
    let upstream = tokens(|_| {});
    let target = Fake::start();
    let program = program(&upstream, &target, 5, "");
    let server = upstream.addr();
    program.write("home/.docker/config.json", format!(r#"{{"credHelpers":{{"{server}":"vault"}}}}"#));
    let log = program.path("asked");
    program.script(
        "bin/docker-credential-vault",
        &format!(
            "read server\necho \"$1 $server\" >> '{}'\necho '{{\"ServerURL\":\"{server}\",\"Username\":\"ci\",\"Secret\":\"{SECRET}\"}}'\n",
            log.display()
        ),
    );
    let run = program.sync(&["list.txt", "-vv"]).exits(0);
    assert_eq!(run.total("copied"), 5);
    assert_eq!(program.read("asked"), format!("get {server}\n"), "once, not once an image");
    assert_eq!(run.registry(&server)["account"], "ci");
    kept_secret(&program, &run, "ci");
}

#[test]
fn secrets_come_from_variables_files_and_commands() {
    for password in ["{ env = \"P\" }", "{ file = \"secrets/p\" }", "{ command = [\"cat\", \"secrets/p\"] }"] {
        let (upstream, target) = (tokens(|_| {}), Fake::start());
        let mut program = program(&upstream, &target, 2, &set(&upstream, password));
        program.set("P", SECRET);
        program.write("secrets/p", format!("{SECRET}\n"));
        let run = program.sync(&["list.txt", "-vv"]);
        assert_eq!(run.code, 0, "{password}: {}", run.stderr);
        kept_secret(&program, &run, "ci");
    }
}

#[test]
fn a_command_runs_again_after_a_401_and_once() {
    let (upstream, target) = (registry(Auth::basic("ci", SECRET)), Fake::start());
    let program = program(&upstream, &target, 8, "");
    let script = program.script(
        "bin/rotate",
        &format!("echo run >> '{0}'\n[ $(wc -l < '{0}') = 1 ] && echo stale || echo {SECRET}\n", program.path("runs").display()),
    );
    let sets = set(&upstream, &format!("{{ command = [\"{}\"] }}", script.display()));
    program.write("larder.toml", configuration(&target.addr(), &[&upstream]) + &sets);
    assert_eq!(program.sync_list().exits(0).total("copied"), 8);
    assert_eq!(program.read("runs"), "run\nrun\n");
}

#[test]
fn a_wrong_password_is_asked_once_not_once_an_image() {
    for auth in [Auth::basic("ci", SECRET), tokens_of_ci()] {
        let (upstream, target) = (registry(auth), Fake::start());
        let mut program = program(&upstream, &target, 20, &set(&upstream, "{ env = \"P\" }"));
        program.set("P", "wr0ng-Pa55word");
        let run = program.sync(&["list.txt", "-vv"]).exits(1);
        assert_eq!((run.total("failed"), run.total("copied")), (20, 0));
        assert_eq!(upstream.count_matching(Request::authorized), 1, "the password was sent more than once");
        for row in run.images() {
            let (status, message) = (&row["error"]["status"], row["error"]["message"].as_str().unwrap());
            assert!(*status == 401 && message.contains("ci-set") && !message.contains("wr0ng"), "{row}");
            assert_eq!(row["error"]["side"], "upstream");
        }
        assert!(!run.stderr.contains("wr0ng"), "{}", run.stderr);
    }
}

fn tokens_of_ci() -> Auth {
    Auth::Token(Tokens {
        anonymous: false,
        ..match Auth::tokens("ci", SECRET) {
            Auth::Token(tokens) => tokens,
            _ => unreachable!(),
        }
    })
}

#[test]
fn one_token_request_serves_all_who_wait_for_it() {
    let (upstream, target) = (tokens(|_| {}), Fake::start());
    let mut program = program(&upstream, &target, 40, &set(&upstream, "{ env = \"P\" }"));
    program.set("P", SECRET);
    let gate = Gate::closed();
    upstream.fault(Match::kind(Kind::Token), 1, Fault::Hold(gate.clone()));
    let run = program.start_sync(&["list.txt"]);
    // All images that are worked on at once have asked the target, and wait for the upstream.
    assert!(upstream.wait_until(PATIENCE, |requests| requests.iter().any(|request| request.kind == Kind::Token)));
    assert!(target.wait_until(PATIENCE, |requests| requests.len() >= 16));
    gate.open();
    assert_eq!(run.join().unwrap().exits(0).total("copied"), 40);
    assert_eq!(upstream.count(Kind::Token), 1);
}

#[test]
fn a_token_that_is_revoked_in_mid_run_is_renewed_once() {
    let (upstream, target) = (tokens(|_| {}), Fake::start());
    let mut program = program(&upstream, &target, 40, &set(&upstream, "{ env = \"P\" }"));
    program.set("P", SECRET);
    let gate = Gate::closed();
    upstream.fault(Match::kind(Kind::ManifestGet), fake::FOREVER, Fault::Hold(gate.clone()));
    let run = program.start_sync(&["list.txt"]);
    let waiting = |requests: &[Request]| requests.iter().filter(|request| request.kind == Kind::ManifestGet).count() >= 8;
    assert!(upstream.wait_until(PATIENCE, waiting));
    upstream.revoke_tokens();
    gate.open();
    assert_eq!(run.join().unwrap().exits(0).total("copied"), 40);
    assert_eq!(upstream.count(Kind::Token), 2);
}

#[test]
fn tokens_that_live_a_second_are_renewed_as_they_are_needed() {
    let (upstream, target) = (tokens(|tokens| tokens.expires_in = Some(1)), tokens(|tokens| tokens.expires_in = Some(1)));
    let both = set(&upstream, "{ env = \"P\" }") + &set(&target, "{ env = \"P\" }").replace("ci-set", "to-set");
    let mut program = program(&upstream, &target, 10, &both);
    program.set("P", SECRET);
    upstream.configure(|options| options.latency = Some(Duration::from_millis(60)));
    let began = std::time::Instant::now();
    let run = program.sync_list().exits(0);
    assert_eq!(run.total("copied"), 10);
    // One a second, and some that were asked for side by side.
    let most = 10 + usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!(upstream.count(Kind::Token) <= most, "{} tokens", upstream.count(Kind::Token));
}

#[test]
fn credentials_never_follow_a_redirect_to_another_host() {
    for auth in [Auth::basic("ci", SECRET), tokens_of_ci()] {
        // The second host answers 400 to whoever sends credentials, as S3 does.
        let upstream = Fake::with(Options { auth, redirect: Some(Redirect::default()), ..Options::default() });
        let target = Fake::start();
        let mut program = program(&upstream, &target, 5, &set(&upstream, "{ env = \"P\" }"));
        program.set("P", SECRET);
        let run = program.sync(&["list.txt", "-vv"]).exits(0);
        assert_eq!(run.total("copied"), 5);
        assert_eq!(upstream.count(Kind::Cdn), upstream.count(Kind::BlobGet));
        assert_eq!(upstream.count_matching(|request| request.kind == Kind::Cdn && request.authorized()), 0);
        assert!(!run.stderr.contains("signed-"), "a signed link is a secret:\n{}", run.stderr);
        kept_secret(&program, &run, "ci");
    }
}

#[test]
fn a_set_is_not_used_towards_another_login_server() {
    let (upstream, target) = (tokens(|tokens| tokens.anonymous = true), Fake::start());
    let other = Fake::start();
    let mut program = program(&upstream, &target, 2, &set(&other, "{ env = \"P\" }"));
    program.set("P", SECRET);
    program.sync_list().exits(0);
    for registry in [&upstream, &target] {
        let shown = registry.count_matching(|request| request.header("authorization").is_some_and(|value| value.starts_with("Basic")));
        assert_eq!(shown, 0);
    }
}

#[test]
fn a_private_repository_without_credentials_fails_alone_and_says_what_to_do() {
    let upstream = tokens(|tokens| {
        tokens.anonymous = true;
        tokens.private = vec!["hidden".to_owned()];
    });
    let target = Fake::start();
    let program = program(&upstream, &target, 2, "");
    simple(&upstream, "hidden", "v1", 9);
    program.list([upstream.image("app:v0"), upstream.image("hidden:v1"), upstream.image("hidden:v2"), upstream.image("app:v1")]);
    let run = program.sync_list().exits(1);
    assert_eq!((run.total("copied"), run.total("failed")), (2, 2));
    let message = run.with_status("failed")[0]["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("asked without credentials") && message.contains(&format!("docker login {}", upstream.addr())), "{message}");
    assert!(upstream.count(Kind::Token) <= 3, "{} tokens", upstream.count(Kind::Token));
}
