//! The authenticator against a scripted token server.

mod asking;
mod caching;
mod refusing;

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use secrecy::SecretString;

use super::*;

const HUB: &str = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io""#;

type Script = dyn Fn(&TokenRequest, usize) -> (u16, String) + Send + Sync;

/// A token server that answers by its script, takes a second for it, and remembers what it was asked.
struct Server {
    asked: Mutex<Vec<TokenRequest>>,
    script: Box<Script>,
    /// What requests without a login are answered with, at the API's root.
    root: Option<(u16, Vec<HeaderValue>)>,
}

impl Server {
    fn new(script: impl Fn(&TokenRequest, usize) -> (u16, String) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Server { asked: Mutex::default(), script: Box::new(script), root: None })
    }

    /// Gives the nth request the token `tn`, for 300 seconds.
    fn generous() -> Arc<Self> {
        Self::new(|_, n| (200, format!(r#"{{"token":"t{n}","expires_in":300}}"#)))
    }

    /// The same, with a root that answers so.
    fn with_challenges(status: u16, challenges: &[&str]) -> Arc<Self> {
        let script = |_: &TokenRequest, n| (200, format!(r#"{{"token":"t{n}","expires_in":300}}"#));
        Arc::new(Server { asked: Mutex::default(), script: Box::new(script), root: Some((status, headers(challenges))) })
    }

    fn always(status: u16, body: &'static str) -> Arc<Self> {
        Self::new(move |_, _| (status, body.to_owned()))
    }

    fn count(&self) -> usize {
        self.asked.lock().len()
    }

    /// The nth request in one line: `GET url` or `POST url form`, and the decoded user if it had one.
    fn line(&self, n: usize) -> String {
        let request = self.asked.lock()[n].clone();
        let user = request.authorization.as_ref().map(|header| {
            assert!(header.is_sensitive());
            use base64::Engine as _;
            let encoded = header.to_str().unwrap().strip_prefix("Basic ").unwrap();
            let decoded = base64::prelude::BASE64_STANDARD.decode(encoded).unwrap();
            format!(" [{}]", String::from_utf8(decoded).unwrap())
        });
        let url = percent_decoded(request.url.as_str());
        match request.form {
            None => format!("GET {url}{}", user.unwrap_or_default()),
            Some(form) => {
                let fields: Vec<_> = form.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("POST {url} {}{}", fields.join("&"), user.unwrap_or_default())
            }
        }
    }

    fn lines(&self) -> Vec<String> {
        (0..self.count()).map(|n| self.line(n)).collect()
    }
}

fn percent_decoded(text: &str) -> String {
    text.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",").replace("%2A", "*")
}

#[async_trait]
impl TokenSender for Server {
    async fn send(&self, request: TokenRequest) -> Result<TokenAnswer> {
        let n = {
            let mut asked = self.asked.lock();
            asked.push(request.clone());
            asked.len()
        };
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Some((status, challenges)) = self.root.as_ref().filter(|_| request.url.path() == "/v2/") {
            return Ok(TokenAnswer { status: *status, body: Bytes::new(), challenges: challenges.clone() });
        }
        let (status, body) = (self.script)(&request, n);
        Ok(TokenAnswer { status, body: Bytes::from(body), challenges: vec![] })
    }
}

/// Logins in the order in which they are renewed.
struct Purse {
    logins: Vec<Login>,
    renewals: AtomicUsize,
    reads: AtomicUsize,
}

#[async_trait]
impl Logins for Purse {
    async fn login(&self) -> Result<Login> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok(self.logins[0].clone())
    }
    async fn renew(&self, _: &Login) -> Result<Option<Login>> {
        let n = self.renewals.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(self.logins.get(n).cloned())
    }
    fn name(&self) -> &str {
        "hub"
    }
}

fn purse(logins: Vec<Login>) -> Arc<Purse> {
    Arc::new(Purse { logins, renewals: AtomicUsize::new(0), reads: AtomicUsize::new(0) })
}

fn password(password: &str) -> Login {
    Login::Basic { username: "ann".to_owned(), password: SecretString::from(password) }
}

fn identity(token: &str) -> Login {
    Login::IdentityToken { token: SecretString::from(token) }
}

fn authenticator(host: &str, endpoint: &str, purse: &Arc<Purse>) -> Arc<Authenticator> {
    let endpoint = Url::parse(endpoint).unwrap();
    let policy = Arc::new(AddressPolicy::offline(&endpoint));
    let named = Arc::new([("named.example.com".to_owned(), 5001)]);
    Arc::new(Authenticator::new(host, endpoint, Side::Upstream, Arc::clone(purse) as Arc<dyn Logins>, policy, named))
}

fn hub(logins: Vec<Login>) -> (Arc<Authenticator>, Arc<Purse>) {
    let purse = purse(logins);
    (authenticator("docker.io", "https://registry-1.docker.io/", &purse), purse)
}

fn headers(challenges: &[&str]) -> Vec<HeaderValue> {
    challenges.iter().map(|text| HeaderValue::from_str(text).unwrap()).collect()
}

/// What the transport does at a 401.
async fn challenged(
    auth: &Authenticator,
    challenge: &str,
    scopes: &Scopes,
    refused: Option<&HeaderValue>,
    server: &Server,
) -> Result<HeaderValue> {
    auth.challenged(&headers(&[challenge]), scopes, refused, server).await
}

/// Runs `count` calls at once, the nth for `scopes(n)`.
async fn crowd(auth: &Arc<Authenticator>, server: &Arc<Server>, count: usize, scopes: fn(usize) -> Scopes) -> Vec<Result<HeaderValue>> {
    let tasks: Vec<_> = (0..count)
        .map(|n| {
            let (auth, server) = (Arc::clone(auth), Arc::clone(server));
            tokio::spawn(async move { challenged(&auth, HUB, &scopes(n), None, &server).await })
        })
        .collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

fn one(_: usize) -> Scopes {
    Scopes::pull("library/alpine")
}

fn many(n: usize) -> Scopes {
    Scopes::pull(format!("library/image{n}"))
}
