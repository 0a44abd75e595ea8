//! Anonymous tokens of a host that a registry redirected to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderValue;
use tokio::time::Instant;
use url::Url;

use super::challenge::{self, Scheme};
use super::exchange::Bearer;
use super::realm;
use super::token::Token;
use crate::mutex::Mutex;

/// Anonymous tokens of other hosts, by the request that got them.
#[derive(Debug, Default)]
pub(crate) struct ForeignTokens(Mutex<HashMap<Url, (HeaderValue, Instant)>>);

impl ForeignTokens {
    pub(crate) fn get(&self, request: &Url) -> Option<HeaderValue> {
        let tokens = self.0.lock();
        tokens.get(request).filter(|(_, until)| *until > Instant::now()).map(|(header, _)| header.clone())
    }

    pub(crate) fn keep(&self, request: Url, header: HeaderValue, until: Instant) {
        let mut tokens = self.0.lock();
        let now = Instant::now();
        tokens.retain(|_, (_, until)| *until > now);
        tokens.insert(request, (header, until));
    }
}

/// Where a host that answered 401 at `url` gives a token to nobody: at its own token server, with the scope that it names. `None` if it
/// names none that belongs to it.
pub(crate) fn anonymous_request(www_authenticate: &[HeaderValue], url: &Url) -> Option<Url> {
    let offers = challenge::parse(www_authenticate);
    let offer = offers.iter().find(|offer| offer.scheme == Scheme::Bearer)?;
    let mut asked = realm::url(offer.realm.as_deref()?, url)?;
    if !realm::belongs(url.host_str()?, asked.host_str()?) {
        return None;
    }
    if offer.service.is_some() || offer.scope.is_some() {
        let mut query = asked.query_pairs_mut();
        query.extend_pairs(offer.service.iter().map(|service| ("service", service)));
        query.extend_pairs(offer.scope.iter().flat_map(|scope| scope.split_whitespace()).map(|scope| ("scope", scope)));
    }
    Some(asked)
}

/// The header that a token server's answer gives, and for how long it is good.
pub(crate) fn anonymous_token(status: u16, body: &[u8]) -> Option<(HeaderValue, Duration)> {
    if !(200..300).contains(&status) {
        return None;
    }
    let from = Bearer { realm: Url::parse("https://anonymous.invalid/").ok()?, service: None, extra: vec![] };
    let now = Instant::now();
    let token = Token::read(body, now, &Arc::new(from), false).ok()?;
    let life = token.life(now);
    Some((token.header, life))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_asked_for_at_the_hosts_own_server_only() {
        let url = Url::parse("https://us-west2-docker.pkg.dev/v2/k8s/images/pause/manifests/3.9").unwrap();
        for (challenge, expected) in [
            (
                r#"Bearer realm="https://us-west2-docker.pkg.dev/v2/token",service="us-west2-docker.pkg.dev",scope="repository:k8s/images/pause:pull""#,
                Some(
                    "https://us-west2-docker.pkg.dev/v2/token?service=us-west2-docker.pkg.dev&scope=repository%3Ak8s%2Fimages%2Fpause%3Apull",
                ),
            ),
            (r#"Bearer realm="/v2/token""#, Some("https://us-west2-docker.pkg.dev/v2/token")),
            (r#"Bearer realm="https://registry.k8s.io/token",scope="x""#, None),
            (r#"Bearer realm="https://evil.pkg.dev/token""#, None),
            ("Basic realm=x", None),
            ("", None),
        ] {
            let challenges = [HeaderValue::from_static(challenge)];
            assert_eq!(anonymous_request(&challenges, &url).as_ref().map(Url::as_str), expected, "{challenge}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_read_from_a_good_answer_only() {
        let (header, life) = anonymous_token(200, br#"{"token":"t","expires_in":300}"#).unwrap();
        assert!(header == "Bearer t" && header.is_sensitive());
        assert_eq!(life.as_secs(), 270);
        assert!(anonymous_token(403, br#"{"token":"t"}"#).is_none() && anonymous_token(200, b"{}").is_none());
    }
}
