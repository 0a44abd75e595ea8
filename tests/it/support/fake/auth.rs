//! Who may do what: Basic, and a token server (distribution's docs/content/spec/auth/{token,scope,oauth}.md).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use bytes::Bytes;
use serde_json::{Map, Value};

use super::ANONYMOUS;
use super::log::Kind;
use super::reply::{Reply, error, not_found, reply, with};
use super::route::Route;

/// Who may do what at a registry.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Everybody, everything.
    None,
    /// Who sends this name and password.
    Basic { user: String, password: String },
    /// Who has a token of the registry's own token server, `/token`.
    Token(Tokens),
}

impl Auth {
    pub fn basic(user: &str, password: &str) -> Self {
        Auth::Basic { user: user.to_owned(), password: password.to_owned() }
    }
    /// Tokens for anybody to pull, and for one user to pull and push.
    pub fn tokens(user: &str, password: &str) -> Self {
        Auth::Token(Tokens { users: vec![(user.to_owned(), password.to_owned())], ..Tokens::default() })
    }
}

/// Challenges as registries write them (docs/registries.md, "Login"); `{realm}`, `{service}` and `{scope}` are filled in.
pub const QUOTED: &str = r#"Bearer realm="{realm}",service="{service}",scope="{scope}""#;
pub const UNQUOTED: &str = r#"Bearer realm="{realm}",service={service},scope="{scope}""#;
pub const NO_SERVICE: &str = r#"Bearer realm="{realm}",scope="{scope}""#;
pub const EMPTY_SCOPE: &str = r#"Bearer realm="{realm}",service="{service}",scope="""#;
pub const NO_SCOPE: &str = r#"Bearer realm="{realm}",service="{service}""#;
pub const BASIC_AND_BEARER: &str = r#"Basic realm="{realm}", Bearer realm="{realm}",service="{service}",scope="{scope}""#;
pub const LOWER_CASE: &str = r#"bearer REALM="{realm}", Service="{service}", scope="{scope}""#;

/// How a token server behaves.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// Names and passwords; a user may do everything.
    pub users: Vec<(String, String)>,
    /// Identity tokens and their users, for POST with `grant_type=refresh_token`.
    pub identity_tokens: Vec<(String, String)>,
    /// Whether anybody gets tokens to pull.
    pub anonymous: bool,
    /// Repositories that `anonymous` does not extend to.
    pub private: Vec<String>,
    /// The field that holds the token: `token`, `access_token`.
    pub field: &'static str,
    /// The seconds that a token is said to be good for, and is.
    pub expires_in: Option<u64>,
    /// Whether POST works; otherwise 404.
    pub post: bool,
    /// Whether only the first scope of a request is looked at.
    pub first_scope_only: bool,
    /// Whether tokens say what they are good for, as JWTs do.
    pub claims: bool,
    /// One `WWW-Authenticate` header each; [`QUOTED`] and its like.
    pub challenges: Vec<String>,
    /// Where tokens are said to be had; the registry's own `/token` if `None`.
    pub realm: Option<String>,
}

impl Default for Tokens {
    fn default() -> Self {
        Tokens {
            users: vec![],
            identity_tokens: vec![],
            anonymous: true,
            private: vec![],
            field: "token",
            expires_in: Some(300),
            post: true,
            first_scope_only: false,
            claims: false,
            challenges: vec![QUOTED.to_owned()],
            realm: None,
        }
    }
}

/// `repository:name:pull,push`
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scope {
    resource: String,
    actions: Vec<String>,
}

impl Scope {
    fn new(resource: String, actions: &[&str]) -> Self {
        Scope { resource, actions: actions.iter().map(|action| (*action).to_owned()).collect() }
    }
    fn parse(text: &str) -> Option<Self> {
        let (resource, actions) = text.rsplit_once(':')?;
        Some(Scope { resource: resource.to_owned(), actions: actions.split(',').map(str::to_owned).collect() })
    }
    fn grants(&self, needed: &Scope) -> bool {
        self.resource == needed.resource && needed.actions.iter().all(|action| self.actions.contains(action))
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.resource, self.actions.join(","))
    }
}

/// What a request needs.
fn needed(route: &Route) -> Vec<Scope> {
    let here = |actions: &[&str]| Scope::new(format!("repository:{}", route.repository), actions);
    match route.kind {
        Kind::ManifestHead | Kind::ManifestGet | Kind::BlobHead | Kind::BlobGet | Kind::Tags | Kind::Referrers => vec![here(&["pull"])],
        Kind::ManifestPut | Kind::UploadPost | Kind::UploadPatch | Kind::UploadPut | Kind::UploadGet | Kind::UploadDelete => {
            vec![here(&["pull", "push"])]
        }
        Kind::Mount => {
            let from = route.value("from").map(|from| Scope::new(format!("repository:{from}"), &["pull"]));
            std::iter::once(here(&["pull", "push"])).chain(from).collect()
        }
        Kind::ManifestDelete | Kind::BlobDelete => vec![here(&["delete"])],
        Kind::Catalog => vec![Scope::new("registry:catalog".to_owned(), &["*"])],
        Kind::Ping | Kind::Token | Kind::Cdn | Kind::Other => vec![],
    }
}

struct Grant {
    account: String,
    scopes: Vec<Scope>,
    until: Option<Instant>,
}

/// The tokens that were handed out.
#[derive(Default)]
pub(super) struct Issued {
    grants: Mutex<HashMap<String, Grant>>,
    refresh: Mutex<HashMap<String, String>>,
}

impl Issued {
    /// No token handed out so far is good any more.
    pub(super) fn revoke(&self) {
        for grant in self.grants.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            grant.until = Some(Instant::now());
        }
    }

    /// The account a request is made for, or the 401 it gets.
    pub(super) fn check(&self, auth: &Auth, route: &Route, headers: &HeaderMap, origin: &str) -> Result<String, Reply> {
        let given = headers.get("authorization").and_then(|value| value.to_str().ok());
        match auth {
            Auth::None => Ok(ANONYMOUS.to_owned()),
            Auth::Basic { user, password } => match given.and_then(basic) {
                Some(pair) if pair == (user.clone(), password.clone()) => Ok(user.clone()),
                _ => Err(with(unauthorized("authentication required"), "www-authenticate", r#"Basic realm="fake""#)),
            },
            Auth::Token(tokens) => self.check_token(tokens, route, given, origin),
        }
    }

    fn check_token(&self, tokens: &Tokens, route: &Route, given: Option<&str>, origin: &str) -> Result<String, Reply> {
        let needed = needed(route);
        // A registry that offers Basic beside Bearer takes it.
        let basic_too = tokens.challenges.iter().any(|challenge| challenge.starts_with("Basic"));
        if basic_too && let Some(pair) = given.and_then(basic) {
            return if tokens.users.contains(&pair) { Ok(pair.0) } else { Err(challenge(tokens, &needed, None, origin)) };
        }
        let Some(token) = given.and_then(|given| given.strip_prefix("Bearer ")) else {
            return Err(challenge(tokens, &needed, None, origin));
        };
        let grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(grant) = grants.get(token).filter(|grant| grant.until.is_none_or(|until| Instant::now() < until)) else {
            return Err(challenge(tokens, &needed, Some("invalid_token"), origin));
        };
        // Where the challenge does not say a scope, the token is good for whatever its account may do.
        let scoped = tokens.challenges.iter().any(|challenge| challenge.contains("{scope}"));
        let enough = if scoped {
            needed.iter().all(|needed| grant.scopes.iter().any(|scope| scope.grants(needed)))
        } else {
            needed.iter().all(|needed| tokens.allowed(&grant.account, needed).grants(needed))
        };
        if enough { Ok(grant.account.clone()) } else { Err(challenge(tokens, &needed, Some("insufficient_scope"), origin)) }
    }

    /// The token server: GET with a query, or POST with a form.
    pub(super) fn token(&self, auth: &Auth, route: &Route, headers: &HeaderMap, form: Option<Bytes>) -> Reply {
        let Auth::Token(tokens) = auth else { return not_found() };
        match form {
            None => self.get_token(tokens, route, headers),
            Some(_) if !tokens.post => not_found(),
            Some(form) => self.post_token(tokens, &url::form_urlencoded::parse(&form).into_owned().collect::<HashMap<_, _>>()),
        }
    }

    fn get_token(&self, tokens: &Tokens, route: &Route, headers: &HeaderMap) -> Reply {
        let account = match headers.get("authorization").and_then(|value| value.to_str().ok()) {
            None if tokens.anonymous => ANONYMOUS.to_owned(),
            None => return unauthorized("authentication required"),
            Some(given) => match basic(given) {
                Some(pair) if tokens.users.contains(&pair) => pair.0,
                _ => return unauthorized("incorrect username or password"),
            },
        };
        let scopes = route.query.iter().filter(|(key, _)| key == "scope").flat_map(|(_, value)| value.split(' '));
        let offline = route.value("offline_token") == Some("true") && account != ANONYMOUS;
        self.issue(tokens, &account, scopes, offline)
    }

    fn post_token(&self, tokens: &Tokens, form: &HashMap<String, String>) -> Reply {
        let field = |name: &str| form.get(name).cloned().unwrap_or_default();
        let account = match field("grant_type").as_str() {
            "password" => Some((field("username"), field("password"))).filter(|pair| tokens.users.contains(pair)).map(|pair| pair.0),
            "refresh_token" => {
                let given = field("refresh_token");
                let known = tokens.identity_tokens.iter().find(|(token, _)| *token == given).map(|(_, user)| user.clone());
                known.or_else(|| self.refresh.lock().unwrap_or_else(PoisonError::into_inner).get(&given).cloned())
            }
            other => {
                return with(reply(400, format!(r#"{{"error":"unsupported_grant_type {other}"}}"#)), "content-type", "application/json");
            }
        };
        match account {
            Some(account) => self.issue(tokens, &account, field("scope").split(' '), field("access_type") == "offline"),
            None => unauthorized("invalid credentials"),
        }
    }

    fn issue<'s>(&self, tokens: &Tokens, account: &str, asked: impl Iterator<Item = &'s str>, offline: bool) -> Reply {
        let most = if tokens.first_scope_only { 1 } else { usize::MAX };
        let asked = asked.filter_map(Scope::parse).take(most);
        let scopes: Vec<Scope> = asked.map(|scope| tokens.allowed(account, &scope)).filter(|scope| !scope.actions.is_empty()).collect();
        let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        let number = grants.len() + 1;
        let token = if tokens.claims { claiming(&scopes, number) } else { format!("token-{number}-of-{account}") };
        let until = tokens.expires_in.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        grants.insert(token.clone(), Grant { account: account.to_owned(), scopes, until });
        let mut answer = Map::new();
        answer.insert(tokens.field.to_owned(), token.into());
        if let Some(seconds) = tokens.expires_in {
            answer.insert("expires_in".to_owned(), seconds.into());
        }
        if offline {
            let refresh = format!("refresh-{number}-of-{account}");
            self.refresh.lock().unwrap_or_else(PoisonError::into_inner).insert(refresh.clone(), account.to_owned());
            answer.insert("refresh_token".to_owned(), refresh.into());
        }
        with(reply(200, Value::from(answer).to_string()), "content-type", "application/json")
    }
}

/// A token whose claims list `scopes` (distribution's docs/content/spec/auth/jwt.md).
fn claiming(scopes: &[Scope], number: usize) -> String {
    use base64::Engine as _;
    let access: Vec<_> = scopes
        .iter()
        .filter_map(|scope| {
            let (kind, name) = scope.resource.split_once(':')?;
            Some(serde_json::json!({"type": kind, "name": name, "actions": scope.actions}))
        })
        .collect();
    format!("e30.{}.{number}", base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(serde_json::json!({ "access": access }).to_string()))
}

impl Tokens {
    /// The part of `scope` that `account` may have.
    fn allowed(&self, account: &str, scope: &Scope) -> Scope {
        let repository = scope.resource.strip_prefix("repository:").unwrap_or_default();
        let public = self.anonymous && !self.private.iter().any(|name| name == repository);
        let allowed = |action: &String| account != ANONYMOUS || (public && !repository.is_empty() && action == "pull");
        Scope { resource: scope.resource.clone(), actions: scope.actions.iter().filter(|action| allowed(action)).cloned().collect() }
    }
}

fn unauthorized(message: &str) -> Reply {
    error(401, "UNAUTHORIZED", message)
}

/// A 401 that says where tokens are had.
fn challenge(tokens: &Tokens, needed: &[Scope], why: Option<&str>, origin: &str) -> Reply {
    let realm = tokens.realm.clone().unwrap_or_else(|| format!("{origin}/token"));
    let scope = needed.iter().map(Scope::to_string).collect::<Vec<_>>().join(" ");
    let mut answer = unauthorized("authentication required");
    for template in &tokens.challenges {
        let template = if scope.is_empty() { template.replace(r#",scope="{scope}""#, "") } else { template.clone() };
        let mut text = template.replace("{realm}", &realm).replace("{service}", "fake-registry").replace("{scope}", &scope);
        if let Some(why) = why {
            text.push_str(&format!(r#",error="{why}""#));
        }
        answer = with(answer, "www-authenticate", text);
    }
    answer
}

/// Name and password of a `Basic` header.
fn basic(header: &str) -> Option<(String, String)> {
    let text = String::from_utf8(base64(header.strip_prefix("Basic ")?)?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Decodes base64 (RFC 4648 section 4).
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = vec![];
    let (mut bits, mut held) = (0u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}
