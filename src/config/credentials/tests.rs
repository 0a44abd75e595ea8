use std::ffi::OsString;
use std::path::PathBuf;

use secrecy::ExposeSecret;

use super::*;
use crate::config::Config;
use crate::name::RegistryRepository;
use crate::{Error, Result};

/// A home of its own, and the store that looks around in it.
struct Home {
    folder: tempfile::TempDir,
    vars: Vec<(OsString, OsString)>,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        // Scripts find their tools behind the folder of the test's own helpers.
        let path = format!("{}:/usr/bin:/bin", bin.display());
        Home { folder, vars: vec![("PATH".into(), path.into())] }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, text: &str) -> &Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn script(&self, name: &str, body: &str) -> &Self {
        let text = self.path("script.txt");
        std::fs::write(&text, format!("#!/bin/sh\ncd '{}'\n{body}\n", self.folder.path().display())).unwrap();
        // Another process makes the executable: were it ever open for writing in this one, a test that forks at that moment
        // would keep it so, and running it would fail with "text file busy".
        let made = std::process::Command::new("install").args(["-m", "755"]).arg(&text).arg(self.path(name)).status().unwrap();
        assert!(made.success());
        self
    }

    fn var(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.vars.push((name.into(), value.into()));
        self
    }

    fn config(&self, text: &str) -> Config {
        Config::parse(&format!("version = 1\n{text}"), &self.path("larder.toml")).unwrap()
    }

    fn store(&self, config: &str) -> CredentialStore {
        let environment = Environment { vars: self.vars.iter().cloned().collect(), home: Some(self.folder.path().to_owned()) };
        CredentialStore::with_environment(&self.config(config), environment)
    }

    /// How often a script that says `echo x >> runs` ran.
    fn runs(&self) -> usize {
        std::fs::read_to_string(self.path("runs")).map_or(0, |text| text.lines().count())
    }
}

fn repository(text: &str) -> RegistryRepository {
    RegistryRepository::parse(text).unwrap()
}

fn text(login: &Login) -> String {
    match login {
        Login::Anonymous => "anonymous".to_owned(),
        Login::Basic { username, password } => format!("{username}:{}", password.expose_secret()),
        Login::IdentityToken { token } => format!("token:{}", token.expose_secret()),
    }
}

/// The login that `store` finds for `name`.
async fn login(store: &CredentialStore, name: &str) -> String {
    text(&store.account_for(&repository(name), None).await.unwrap().login().await.unwrap())
}

fn set(name: &str, server: &str, password: &str) -> String {
    format!("[[credentials]]\nname = \"{name}\"\nlogin_server = \"{server}\"\nusername = \"u\"\npassword = {password}\n")
}

// base64 of alice:pw, bob:pw2 (unpadded), hub:hubpw
const ALICE: &str = "YWxpY2U6cHc=";
const BOB: &str = "Ym9iOnB3Mg";
const HUB: &str = "aHViOmh1YnB3";

#[tokio::test]
async fn the_lookup_goes_in_order() {
    let home = Home::new().var("P1", "one").var("P2", "two");
    home.file(".docker/config.json", &format!(r#"{{"auths": {{"quay.io": {{"auth": "{ALICE}"}}, "ghcr.io": {{"auth": "{ALICE}"}}}}}}"#));
    home.file(
        ".config/containers/auth.json",
        &format!(r#"{{"auths": {{"quay.io": {{"auth": "{BOB}"}}, "gcr.io": {{"auth": "{BOB}"}}}}}}"#),
    );
    let store = home.store(&format!("{}{}", set("first", "ghcr.io", "{ env = \"P1\" }"), set("second", "ghcr.io", "{ env = \"P2\" }")));
    let by_rule = store.account_for(&repository("ghcr.io/a/b"), Some("second")).await.unwrap();
    assert_eq!((by_rule.name(), text(&by_rule.login().await.unwrap()).as_str()), ("second", "u:two"));
    for (name, expected) in
        [("ghcr.io/a/b", "u:one"), ("quay.io/a/b", "alice:pw"), ("gcr.io/a/b", "bob:pw2"), ("registry.k8s.io/pause", "anonymous")]
    {
        assert_eq!(login(&store, name).await, expected, "{name}");
    }
    assert_eq!(store.account_for(&repository("quay.io/x"), None).await.unwrap().name(), "alice");
    assert_eq!(store.account_for_host("nowhere.io", "x").await.unwrap().name(), "anonymous");
}

#[tokio::test]
async fn a_set_is_used_only_towards_its_login_server() {
    let home = Home::new().var("P1", "one");
    let store = home.store(&format!(
        "{}[registry.\"corp.io\"]\nendpoint = \"https://registry.corp.io\"\n",
        set("corp", "registry.corp.io", "{ env = \"P1\" }")
    ));
    let error = store.account_for(&repository("quay.io/a"), Some("corp")).await.unwrap_err();
    assert_eq!(error.message(), "credential set \"corp\" is for registry.corp.io, not for quay.io");
    assert!(store.account_for(&repository("quay.io/a"), Some("nobody")).await.is_err());
    assert_eq!(login(&store, "corp.io/a").await, "u:one");
    assert_eq!(login(&store, "quay.io/a").await, "anonymous");
}

#[tokio::test]
async fn the_longest_path_prefix_wins() {
    let home = Home::new();
    let entry = |user: &str| format!(r#"{{"username": "{user}", "password": "p"}}"#);
    home.file(
        ".docker/config.json",
        &format!(r#"{{"auths": {{"quay.io": {}, "quay.io/org": {}, "quay.io/org/app": {}}}}}"#, entry("host"), entry("org"), entry("app")),
    );
    let store = home.store("");
    for (name, expected) in [
        ("quay.io/org/app", "app:p"),
        ("quay.io/org/app/deep", "app:p"),
        ("quay.io/org/apple", "org:p"),
        ("quay.io/organisation/app", "host:p"),
    ] {
        assert_eq!(login(&store, name).await, expected, "{name}");
    }
}

#[tokio::test]
async fn docker_hub_and_identity_tokens_are_read_as_docker_writes_them() {
    let home = Home::new();
    home.file(
        "elsewhere/config.json",
        &format!(
            r#"{{"auths": {{"https://index.docker.io/v1/": {{"auth": "{HUB}"}}, "contoso.azurecr.io": {{"auth": "{ALICE}", "identitytoken": "tok"}},
                "other.azurecr.io": {{"identitytoken": "tok2"}}, "https://quay.io": {{}}}}, "HttpHeaders": {{}}, "psFormat": "x"}}"#
        ),
    );
    let elsewhere = home.path("elsewhere");
    let home = home.var("DOCKER_CONFIG", elsewhere);
    let store = home.store("");
    for (name, account, expected) in [
        ("alpine", "hub", "hub:hubpw"),
        ("contoso.azurecr.io/a", "alice", "token:tok"),
        ("other.azurecr.io/a", "identity token", "token:tok2"),
        ("quay.io/a", "anonymous", "anonymous"),
    ] {
        assert_eq!(login(&store, name).await, expected, "{name}");
        assert_eq!(store.account_for(&repository(name), None).await.unwrap().name(), account, "{name}");
    }
}

#[tokio::test]
async fn podman_files_are_found_where_podman_keeps_them() {
    let auth = |encoded: &str| format!(r#"{{"auths": {{"docker.io": {{"auth": "{encoded}"}}}}}}"#);
    let home = Home::new();
    home.file("run/containers/auth.json", &auth(ALICE)).file(".config/containers/auth.json", &auth(BOB)).file("own.json", &auth(HUB));
    assert_eq!(login(&home.store(""), "alpine").await, "bob:pw2");
    let (run, own) = (home.path("run"), home.path("own.json"));
    let home = home.var("XDG_RUNTIME_DIR", run);
    assert_eq!(login(&home.store(""), "alpine").await, "alice:pw");
    let home = home.var("REGISTRY_AUTH_FILE", own);
    assert_eq!(login(&home.store(""), "alpine").await, "hub:hubpw");
}

#[tokio::test]
async fn helpers_are_asked_once_and_may_know_nothing() {
    let home = Home::new();
    home.script(
        "bin/docker-credential-fake",
        r#"read server; echo "$1 $server" >> runs
case "$server" in
  https://index.docker.io/v1/) echo '{"ServerURL":"x","Username":"hub","Secret":"s1"}';;
  ghcr.io) echo '{"Username":"<token>","Secret":"s2"}';;
  *) echo 'credentials not found in native keychain'; exit 1;;
esac"#,
    );
    home.script("bin/docker-credential-own", r#"echo '{"Username":"own","Secret":"s3"}'"#);
    home.file(
        ".docker/config.json",
        r#"{"credsStore": "fake", "credHelpers": {"quay.io/org": "own"}, "auths": {"https://index.docker.io/v1/": {}, "ghcr.io": {}}}"#,
    );
    let store = home.store("");
    let (one, two) = tokio::join!(store.account_for_host("docker.io", "library/a"), store.account_for_host("docker.io", "library/b"));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one, two);
    assert_eq!((one.name(), text(&one.login().await.unwrap()).as_str()), ("hub", "hub:s1"));
    assert_eq!(home.runs(), 1);
    for (name, expected) in
        [("ghcr.io/a", "token:s2"), ("quay.io/org/a", "own:s3"), ("quay.io/else/a", "anonymous"), ("quay.io/else/b", "anonymous")]
    {
        assert_eq!(login(&store, name).await, expected, "{name}");
    }
    let asked = std::fs::read_to_string(home.path("runs")).unwrap();
    assert_eq!(asked, "get https://index.docker.io/v1/\nget ghcr.io\nget quay.io\n");
}

#[tokio::test]
async fn the_same_credential_is_the_same_account() {
    let home = Home::new().var("P", "p");
    home.file(
        ".docker/config.json",
        &format!(
            r#"{{"auths": {{"quay.io/a": {{"auth": "{ALICE}"}}, "quay.io/b": {{"auth": "{ALICE}"}}, "quay.io/c": {{"auth": "{BOB}"}}}}}}"#
        ),
    );
    let store = home.store(&set("s", "ghcr.io", "{ env = \"P\" }"));
    let account = async |name: &str, set: Option<&str>| store.account_for(&repository(name), set).await.unwrap();
    assert_eq!(account("ghcr.io/a", None).await, account("ghcr.io/b", Some("s")).await);
    assert_eq!(account("quay.io/a/x", None).await, account("quay.io/b/y", None).await);
    assert_ne!(account("quay.io/a/x", None).await, account("quay.io/c/x", None).await);
    assert_eq!(account("gcr.io/a", None).await, account("mcr.microsoft.com/a", None).await);
}

#[tokio::test]
async fn secrets_are_read_at_first_need_once_for_all_and_commands_again_after_a_refusal() {
    let home = Home::new();
    home.script("token", "echo x >> runs; printf 'secret-%s-%s\\r\\n' $(wc -l < runs) \"$1\"");
    let store = home.store(&set("s", "quay.io", "{ command = [\"./token\", \"arg\"] }"));
    let account = store.account_for(&repository("quay.io/a"), None).await.unwrap();
    assert_eq!(home.runs(), 0);
    let (first, same) = tokio::join!(account.login(), account.login());
    let first = first.unwrap();
    assert_eq!((text(&first).as_str(), home.runs()), ("u:secret-1-arg", 1));
    assert_eq!(first, same.unwrap());
    let (renewed, shared) = tokio::join!(account.renew(&first), account.renew(&first));
    let renewed = renewed.unwrap().unwrap();
    assert_eq!((text(&renewed).as_str(), home.runs()), ("u:secret-2-arg", 2));
    assert_eq!(renewed, shared.unwrap().unwrap());
    assert_eq!(account.login().await.unwrap(), renewed);
    // A token may run out again in a long run.
    assert_eq!(text(&account.renew(&renewed).await.unwrap().unwrap()), "u:secret-3-arg");
}

#[tokio::test]
async fn a_refused_login_is_not_asked_for_again_and_again() {
    let home = Home::new().var("P", "p");
    home.script("same", "echo x >> runs; echo always");
    let store =
        home.store(&format!("{}{}", set("command", "quay.io", "{ command = [\"./same\"] }"), set("env", "ghcr.io", "{ env = \"P\" }")));
    for (name, runs) in [("quay.io/a", 2), ("ghcr.io/a", 2), ("gcr.io/a", 2)] {
        let account = store.account_for(&repository(name), None).await.unwrap();
        let login = account.login().await.unwrap();
        for _ in 0..3 {
            assert_eq!(account.renew(&login).await.unwrap(), None, "{name}");
        }
        assert_eq!(home.runs(), runs);
    }
}

/// The message of the failure to find or read the login for `name`.
async fn failure(store: &CredentialStore, name: &str) -> String {
    let found: Result<Login> = async { store.account_for(&repository(name), None).await?.login().await }.await;
    found.map_err(|error: Error| error.to_string()).unwrap_err()
}

#[tokio::test]
async fn failures_name_the_set_and_the_source() {
    let home = Home::new().var("EMPTY", "");
    home.script("fails", "echo x >> runs; echo hunter2; echo 'vault is sealed' >&2; echo more >&2; exit 3");
    home.file("binary", "");
    std::fs::write(home.path("binary"), [0xff, 0xfe]).unwrap();
    for (password, expected) in [
        ("{ env = \"UNSET\" }", "environment variable UNSET is not set"),
        ("{ env = \"EMPTY\" }", "environment variable EMPTY is empty"),
        ("{ file = \"missing\" }", "missing: No such file or directory"),
        ("{ file = \"binary\" }", "binary: stream did not contain valid UTF-8"),
        ("{ command = [\"./fails\"] }", "fails failed (exit status: 3: vault is sealed)"),
        ("{ command = [\"no-such-program\"] }", "command no-such-program was not found"),
        ("{ command = [\"true\"] }", "command true is empty"),
    ] {
        let message = failure(&home.store(&set("hub", "docker.io", password)), "alpine").await;
        assert!(message.starts_with("local: look up credentials: credential set \"hub\": password: "), "{message}");
        assert!(message.contains(expected) && !message.contains("hunter2"), "{message}");
    }
    // A failure is kept: the command does not run again for the next image.
    let store = home.store(&set("hub", "docker.io", "{ command = [\"./fails\"] }"));
    assert_eq!(failure(&store, "alpine").await, failure(&store, "nginx").await);
    assert_eq!(home.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_hangs_is_given_up() {
    let home = Home::new();
    let store = home.store(&set("hub", "docker.io", "{ command = [\"sleep\", \"1000\"] }"));
    assert!(failure(&store, "alpine").await.ends_with("command sleep did not end within 60 s"));
}

#[tokio::test]
async fn broken_files_and_helpers_fail_when_they_were_needed() {
    let good = Home::new().var("P", "p");
    good.file(".docker/config.json", "{ \"auths\": {\n \"quay.io\": hunter2 } }");
    let store = good.store(&set("s", "ghcr.io", "{ env = \"P\" }"));
    assert_eq!(login(&store, "ghcr.io/a").await, "u:p");
    let message = failure(&store, "quay.io/a").await;
    assert!(
        message.contains(".docker/config.json: not a credentials file that can be read (line 2,") && !message.contains("hunter2"),
        "{message}"
    );

    for (entry, expected) in [
        (r#"{"auth": "hunter2!"}"#, "the entry for quay.io: unable to decode credential (log in again: docker login quay.io)"),
        (
            &*format!(r#"{{"auth": "{ALICE}", "username": "eve", "password": "hunter2"}}"#),
            "auth field does not match username and password fields",
        ),
    ] {
        let home = Home::new();
        home.file(".docker/config.json", &format!(r#"{{"auths": {{"quay.io": {entry}}}}}"#));
        let message = failure(&home.store(""), "quay.io/a").await;
        assert!(message.contains(expected) && !message.contains("hunter2"), "{message}");
    }

    let home = Home::new();
    home.file(".docker/config.json", r#"{"credHelpers": {"a.io": "missing", "b.io": "broken", "c.io": "odd"}}"#);
    home.script("bin/docker-credential-broken", "echo hunter2; echo 'no session' >&2; exit 1");
    home.script("bin/docker-credential-odd", "echo '{\"Username\": \"hunter2\"}'");
    let store = home.store("");
    for (name, expected) in [
        ("a.io/x", "credential helper docker-credential-missing was not found (mend or remove the helper"),
        ("b.io/x", "credential helper docker-credential-broken failed for b.io (exit status: 1: no session)"),
        ("c.io/x", "credential helper docker-credential-odd did not answer with a credential"),
    ] {
        let message = failure(&store, name).await;
        assert!(message.contains(expected) && message.contains("config.json") && !message.contains("hunter2"), "{message}");
    }
    assert_eq!(login(&store, "d.io/x").await, "anonymous");
}

#[tokio::test]
async fn nothing_shows_a_secret() {
    let home = Home::new().var("P", "hunter2").var("U", "user-secret");
    home.file(
        ".docker/config.json",
        r#"{"auths": {"quay.io": {"username": "bob", "password": "hunter2"}, "ghcr.io": {"identitytoken": "hunter2"}}}"#,
    );
    home.file("pw", "hunter2\n");
    let config = format!(
        "{}[[credentials]]\nname = \"t\"\nlogin_server = \"t.io\"\nusername = {{ env = \"U\" }}\npassword = {{ command = [\"sh\", \"-c\", \"cat {} # hunter2\"] }}\n",
        set("s", "docker.io", "{ file = \"pw\" }"),
        home.path("pw").display(),
    );
    let store = home.store(&config);
    let mut shown = vec![format!("{store:?} {:?} {}", home.config(&config), home.config(&config).show())];
    for name in ["alpine", "quay.io/a", "ghcr.io/a", "gcr.io/a", "t.io/a"] {
        let account = store.account_for(&repository(name), None).await.unwrap();
        let login = account.login().await.unwrap();
        shown.push(format!("{account:?} {login:?}"));
    }
    for set in &home.config(&config).credentials {
        shown.push(format!("{set:?}"));
    }
    for shown in shown {
        assert!(!shown.contains("hunter2") && !shown.contains("user-secret"), "{shown}");
    }
}
