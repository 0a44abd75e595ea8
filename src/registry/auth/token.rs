//! Tokens: reading a token server's answer, and keeping what it gave for as long as it is good.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderValue;
use serde_json::Value;
use tokio::time::Instant;

use super::exchange::Bearer;
use super::scope::Scopes;

/// A token is good for this long if its server does not say, and never for less (distribution's `spec/auth/token.md`).
pub(super) const SHORTEST: Duration = Duration::from_secs(60);

/// Beyond a day we do not believe it; asking once more a day costs nothing.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How much earlier than it ends a token is renewed, at most: a request may wait this long between getting its token and being
/// judged by the registry, whose clock may also run ahead of the token server's. A tenth of the life of shorter ones.
const EARLY: Duration = Duration::from_secs(30);

/// A token as a header, and how long it is good.
#[derive(Debug, Clone)]
pub(super) struct Token {
    /// `Bearer …`, marked as sensitive.
    pub(super) header: HeaderValue,
    issued: Instant,
    until: Instant,
    /// Its issuer, and what it is for.
    from: Arc<Bearer>,
    /// Whether it was asked for because the registry had refused the one before.
    replacement: bool,
    /// Whether it was asked for together with others, which the registry may not accept.
    grouped: bool,
    /// Whether the registry has accepted it: a later refusal means that it has ended early.
    served: bool,
}

impl Token {
    /// Reads a token server's answer to a request sent at `asked`; the error says what is wrong with it.
    pub(super) fn read(body: &[u8], asked: Instant, from: &Arc<Bearer>, replacement: bool) -> Result<Self, &'static str> {
        let answer: Value = serde_json::from_slice(body).map_err(|_| "its answer is no JSON")?;
        // Both names are in use; the specification wants `token` for old clients and `access_token` for OAuth2.
        let text = |key: &str| answer.get(key).and_then(Value::as_str).filter(|token| !token.is_empty());
        let token = text("token").or_else(|| text("access_token")).ok_or("its answer holds no token")?;
        let mut header = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| "its token cannot stand in a header")?;
        header.set_sensitive(true);
        let life = answer.get("expires_in").and_then(seconds).unwrap_or(SHORTEST).clamp(SHORTEST, LONGEST);
        // Counted from before the request, not from the server's `issued_at`: clocks differ.
        Ok(Token {
            header,
            issued: asked,
            until: asked + life - EARLY.min(life / 10),
            from: Arc::clone(from),
            replacement,
            grouped: false,
            served: false,
        })
    }

    /// The same, asked for together with others.
    pub(super) fn grouped(self) -> Self {
        Token { grouped: true, ..self }
    }

    /// The text after `Bearer`.
    pub(super) fn text(&self) -> &str {
        self.header.to_str().ok().and_then(|header| header.strip_prefix("Bearer ")).unwrap_or_default()
    }

    /// How long it is good from `now` on.
    pub(super) fn life(&self, now: Instant) -> Duration {
        self.until.saturating_duration_since(now)
    }

    fn is_fresh(&self) -> bool {
        Instant::now() < self.until
    }
}

/// Seconds as a number, with or without a fraction, or as a string of one.
fn seconds(value: &Value) -> Option<Duration> {
    let seconds = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?;
    // NaN and negative numbers become 0, endless ones the limit.
    Some(Duration::from_secs_f64(seconds.max(0.0).min(LONGEST.as_secs_f64())))
}

/// The tokens of one registry and account.
#[derive(Default)]
pub(super) struct Tokens(HashMap<Scopes, Token>);

/// What is left to do after a token was refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AfterRefusal {
    /// Another may be accepted.
    AskAgain,
    /// It was fresh, and another like it would fare no better.
    Hopeless,
}

impl Tokens {
    /// A fresh token for `scopes`. Unless one was just `refused`, a token for more will do.
    pub(super) fn find(&self, scopes: &Scopes, refused: Option<&HeaderValue>) -> Option<&Token> {
        let usable = |token: &&Token| token.is_fresh() && Some(&token.header) != refused;
        let exact = self.0.get(scopes).filter(usable);
        if exact.is_some() || refused.is_some() {
            return exact;
        }
        self.0.iter().find(|(have, token)| have.cover(scopes) && token.is_fresh()).map(|(_, token)| token)
    }

    /// Keeps a token, and drops those that have ended.
    pub(super) fn keep(&mut self, scopes: Scopes, token: Token) {
        self.0.retain(|_, token| token.is_fresh());
        self.0.insert(scopes, token);
    }

    /// Whether `refused` is the token for `scopes`, and was asked for together with others.
    pub(super) fn is_grouped(&self, scopes: &Scopes, refused: &HeaderValue) -> bool {
        self.0.get(scopes).is_some_and(|token| token.grouped && token.header == *refused)
    }

    /// The registry has accepted `header` for `scopes`.
    pub(super) fn served(&mut self, scopes: &Scopes, header: &HeaderValue) {
        if let Some(token) = self.0.get_mut(scopes).filter(|token| token.header == *header) {
            token.served = true;
        }
    }

    /// Drops the token for `scopes` if it is the one that was refused. `insufficient`: the registry says that it is genuine, but
    /// grants too little.
    pub(super) fn refuse(&mut self, scopes: &Scopes, refused: &HeaderValue, from: &Bearer, insufficient: bool) -> AfterRefusal {
        let Some(token) = self.0.get(scopes).filter(|token| token.header == *refused) else { return AfterRefusal::AskAgain };
        let never_good = token.replacement && !token.served && token.issued.elapsed() < SHORTEST;
        let same_again = *token.from == *from && !token.grouped && (insufficient || never_good);
        if same_again {
            return AfterRefusal::Hopeless;
        }
        self.0.remove(scopes);
        AfterRefusal::AskAgain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(body: &str) -> Result<Token, &'static str> {
        let from = Bearer { realm: "https://x.example/token".parse().unwrap(), service: None, extra: Vec::new() };
        Token::read(body.as_bytes(), Instant::now(), &Arc::new(from), false)
    }

    #[tokio::test(start_paused = true)]
    async fn how_long_a_token_is_good() {
        for (body, expected) in [
            (r#"{"token":"t"}"#, 54),
            (r#"{"token":"t","expires_in":null}"#, 54),
            (r#"{"token":"t","expires_in":1}"#, 54),
            (r#"{"token":"t","expires_in":-5}"#, 54),
            (r#"{"token":"t","expires_in":"rubbish"}"#, 54),
            (r#"{"token":"t","expires_in":300}"#, 270),
            (r#"{"token":"t","expires_in":"300"}"#, 270),
            (r#"{"token":"t","expires_in":300.9}"#, 270),
            (r#"{"token":"t","expires_in":3600}"#, 3570),
            (r#"{"token":"t","expires_in":1e300}"#, 86370),
        ] {
            assert_eq!((token(body).unwrap().until - Instant::now()).as_secs(), expected, "{body}");
        }
    }

    #[tokio::test]
    async fn both_names_are_read_and_what_is_no_token_is_refused() {
        for body in
            [r#"{"token":"t"}"#, r#"{"access_token":"t"}"#, r#"{"token":"","access_token":"t"}"#, r#"{"token":"t","access_token":"u"}"#]
        {
            let token = token(body).unwrap();
            assert_eq!(token.header, "Bearer t");
            assert!(!format!("{token:?}").contains("Bearer t"));
        }
        for body in ["", "<html>", "{}", r#"{"token":7}"#, r#"{"token":"a\nb"}"#, r#"{"token":""}"#, "[]"] {
            assert!(token(body).is_err(), "{body}");
        }
    }
}
