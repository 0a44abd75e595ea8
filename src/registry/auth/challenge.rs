//! `WWW-Authenticate`, as registries really send it.
//!
//! RFC 9110 section 11.6.1 has a grammar; registries have others. The http-auth crate, which follows the RFC, refuses some of
//! what stands below, so this parser is our own and refuses nothing: what it cannot make sense of it leaves out. It copes with unquoted
//! values (`service=gcr.io`), also ones with spaces; a missing service (`us-docker.pkg.dev`); an empty scope (`nvcr.io`);
//! commas inside quotes; several challenges in one header (Quay) or in several; any case of schemes and keys; parameters nobody
//! knows; spaces where commas belong (a Harbor variant); backslash escapes; quotes that never end.

use std::iter::Peekable;
use std::str::CharIndices;

use reqwest::header::HeaderValue;

/// A way of authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// A token from `realm`.
    Bearer,
    /// User name and password with every request.
    Basic,
    /// One that larder does not speak, by its name.
    Other(String),
}

impl Scheme {
    fn named(word: &str) -> Self {
        match word.to_ascii_lowercase().as_str() {
            "bearer" => Scheme::Bearer,
            "basic" => Scheme::Basic,
            _ => Scheme::Other(word.to_owned()),
        }
    }
}

/// One challenge of a 401. Empty values count as absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// How we may authenticate.
    pub(crate) scheme: Scheme,
    /// Bearer: the token server's URL.
    pub(crate) realm: Option<String>,
    /// Bearer: what the token server calls this registry.
    pub(crate) service: Option<String>,
    /// Bearer: the scopes this request needs, separated by spaces.
    pub(crate) scope: Option<String>,
    /// Why what we sent was not enough (`invalid_token`, `insufficient_scope`; RFC 6750 section 3.1).
    pub(crate) error: Option<String>,
}

/// Reads all challenges of all `WWW-Authenticate` headers of an answer, in order.
pub(crate) fn parse(headers: &[HeaderValue]) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for header in headers {
        let text = String::from_utf8_lossy(header.as_bytes());
        ChallengeReader { text: &text, at: text.char_indices().peekable() }.challenges(&mut challenges);
    }
    challenges
}

struct ChallengeReader<'a> {
    text: &'a str,
    at: Peekable<CharIndices<'a>>,
}

impl ChallengeReader<'_> {
    fn challenges(mut self, out: &mut Vec<Challenge>) {
        let first = out.len();
        // Whether a comma stood before what comes next: only then, or by its name, can a bare word be a new scheme.
        let mut after_comma = true;
        loop {
            after_comma |= self.skip_separators();
            let word = self.word();
            if word.is_empty() {
                if self.at.next().is_none() {
                    return;
                }
                // A stray `=` or quote: what follows it is no scheme.
                after_comma = false;
                continue;
            }
            let known = !matches!(Scheme::named(&word), Scheme::Other(_));
            if self.take_equals() {
                let value = self.value();
                if let Some(challenge) = out[first..].last_mut() {
                    set(challenge, &word, value);
                }
            } else if known || after_comma {
                out.push(Challenge { scheme: Scheme::named(&word), realm: None, service: None, scope: None, error: None });
            }
            after_comma = false;
        }
    }

    /// Skips white space and commas; says whether there was a comma.
    fn skip_separators(&mut self) -> bool {
        let mut comma = false;
        while let Some((_, c)) = self.at.next_if(|(_, c)| c.is_whitespace() || *c == ',') {
            comma |= c == ',';
        }
        comma
    }

    /// Takes characters up to a separator, `=` or a quote.
    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some((_, c)) = self.at.next_if(|(_, c)| !c.is_whitespace() && !matches!(c, ',' | '=' | '"')) {
            word.push(c);
        }
        word
    }

    /// Takes an `=`, with white space before it (RFC 9110 allows it, "bad whitespace").
    fn take_equals(&mut self) -> bool {
        let mut ahead = self.at.clone();
        while ahead.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        if ahead.next_if(|(_, c)| *c == '=').is_none() {
            return false;
        }
        self.at = ahead;
        true
    }

    fn value(&mut self) -> String {
        let mut ahead = self.at.clone();
        while ahead.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        if ahead.next_if(|(_, c)| *c == '"').is_some() {
            self.at = ahead;
            return self.quoted();
        }
        let mut value = self.unquoted();
        // `service=Docker registry, scope=…`: further words belong to the value, unless they are a key or a known scheme.
        while let Some(next) = self.next_word_of_value() {
            value.push(' ');
            value.push_str(&next);
        }
        value
    }

    /// The rest of a quoted string, its opening quote being taken.
    fn quoted(&mut self) -> String {
        let mut value = String::new();
        while let Some((_, c)) = self.at.next() {
            match c {
                '"' => break,
                '\\' => value.extend(self.at.next().map(|(_, escaped)| escaped)),
                c => value.push(c),
            }
        }
        value
    }

    /// Characters up to white space or a comma; `=` is one of them (base64).
    fn unquoted(&mut self) -> String {
        let mut value = String::new();
        while let Some((_, c)) = self.at.next_if(|(_, c)| !c.is_whitespace() && *c != ',') {
            value.push(c);
        }
        value
    }

    fn next_word_of_value(&mut self) -> Option<String> {
        let start = self.at.peek()?.0;
        let rest = self.text[start..].trim_start();
        let word = rest.split([' ', '\t', ',', '=', '"']).next().filter(|word| !word.is_empty())?;
        let key = rest[word.len()..].trim_start().starts_with('=');
        if key || !matches!(Scheme::named(word), Scheme::Other(_)) {
            return None;
        }
        let word = word.to_owned();
        while self.at.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        self.word();
        Some(word)
    }
}

/// Keeps a parameter that means something to us. Said twice, the first counts.
fn set(challenge: &mut Challenge, key: &str, value: String) {
    let slot = match key.to_ascii_lowercase().as_str() {
        "realm" => &mut challenge.realm,
        "service" => &mut challenge.service,
        "scope" => &mut challenge.scope,
        "error" => &mut challenge.error,
        _ => return,
    };
    if slot.is_none() && !value.trim().is_empty() {
        *slot = Some(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(headers: &[&str]) -> Vec<String> {
        let headers: Vec<_> = headers.iter().map(|text| HeaderValue::from_bytes(text.as_bytes()).unwrap()).collect();
        parse(&headers).into_iter().map(short).collect()
    }

    /// `Bearer realm|service|scope|error`, absent parts as `-`.
    fn short(challenge: Challenge) -> String {
        let scheme = match challenge.scheme {
            Scheme::Bearer => "Bearer".to_owned(),
            Scheme::Basic => "Basic".to_owned(),
            Scheme::Other(name) => format!("Other({name})"),
        };
        let parts = [challenge.realm, challenge.service, challenge.scope, challenge.error];
        format!("{scheme} {}", parts.map(|part| part.unwrap_or_else(|| "-".to_owned())).join("|"))
    }

    #[test]
    fn what_registries_send() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#;
        for (headers, expected) in [
            (vec![hub], vec!["Bearer https://auth.docker.io/token|registry.docker.io|repository:library/alpine:pull|-"]),
            // gcr.io
            (vec![r#"Bearer realm="https://gcr.io/v2/token",service=gcr.io"#], vec!["Bearer https://gcr.io/v2/token|gcr.io|-|-"]),
            (vec!["Bearer realm=https://gcr.io/v2/token,service=gcr.io"], vec!["Bearer https://gcr.io/v2/token|gcr.io|-|-"]),
            // us-docker.pkg.dev
            (
                vec![r#"Bearer realm="https://us-docker.pkg.dev/v2/token",scope="repository:p/r/i:pull""#],
                vec!["Bearer https://us-docker.pkg.dev/v2/token|-|repository:p/r/i:pull|-"],
            ),
            // nvcr.io
            (vec![r#"Bearer realm="https://nvcr.io/proxy_auth", scope="""#], vec!["Bearer https://nvcr.io/proxy_auth|-|-|-"]),
            (vec!["Bearer realm=r,scope=,service=s"], vec!["Bearer r|s|-|-"]),
            // commas inside quotes
            (
                vec![r#"Bearer realm="r",scope="repository:a:pull,push repository:b:pull",service="s""#],
                vec!["Bearer r|s|repository:a:pull,push repository:b:pull|-"],
            ),
            // two challenges in one header
            (
                vec![r#"Basic realm="quay.io", Bearer realm="https://quay.io/v2/auth",service="quay.io""#],
                vec!["Basic quay.io|-|-|-", "Bearer https://quay.io/v2/auth|quay.io|-|-"],
            ),
            (vec![r#"Basic realm="q" Bearer realm="r""#], vec!["Basic q|-|-|-", "Bearer r|-|-|-"]),
            // and in several
            (vec![r#"Basic realm="x""#, r#"Bearer realm="y""#], vec!["Basic x|-|-|-", "Bearer y|-|-|-"]),
            // a parameter does not leak from one header into the next
            (vec![r#"Bearer realm="y""#, r#"service="z""#], vec!["Bearer y|-|-|-"]),
            // case
            (vec![r#"BEARER Realm="r",SERVICE="s",Scope="x""#], vec!["Bearer r|s|x|-"]),
            (vec![r#"bearer realm="r""#], vec!["Bearer r|-|-|-"]),
            // errors and strangers among the parameters
            (
                vec![r#"Bearer realm="r",service="s",scope="x",error="invalid_token",error_description="expired, sorry",foo=bar"#],
                vec!["Bearer r|s|x|invalid_token"],
            ),
            // spaces for commas (a Harbor variant)
            (vec![r#"Bearer realm="r" service="harbor-registry" scope="x""#], vec!["Bearer r|harbor-registry|x|-"]),
            (vec!["Bearer realm=r service=harbor-registry scope=x"], vec!["Bearer r|harbor-registry|x|-"]),
            // space around the equals sign
            (vec![r#"Bearer realm = "r" , service= "s""#], vec!["Bearer r|s|-|-"]),
            // an unquoted value with a space
            (vec!["Bearer realm=r,service=Docker registry,scope=x"], vec!["Bearer r|Docker registry|x|-"]),
            (vec!["Bearer realm=r,service=a b c Basic realm=q"], vec!["Bearer r|a b c|-|-", "Basic q|-|-|-"]),
            // escapes
            (vec![r#"Basic realm="a \"quoted\" \\ realm""#], vec![r#"Basic a "quoted" \ realm|-|-|-"#]),
            // the first of two wins
            (vec!["Bearer realm=r,realm=q"], vec!["Bearer r|-|-|-"]),
            // other schemes, and base64 behind them
            (vec!["Negotiate"], vec!["Other(Negotiate) -|-|-|-"]),
            (vec!["Negotiate oYG2+/==, Basic realm=x"], vec!["Other(Negotiate) -|-|-|-", "Basic x|-|-|-"]),
            (vec![r#"Digest realm="d", nonce="n", Bearer realm="r""#], vec!["Other(Digest) d|-|-|-", "Bearer r|-|-|-"]),
            (vec!["Basic"], vec!["Basic -|-|-|-"]),
            (vec!["Basic, Bearer realm=r"], vec!["Basic -|-|-|-", "Bearer r|-|-|-"]),
            // rubbish
            (vec![""], vec![]),
            (vec![",, ,"], vec![]),
            (vec![r#"="x",=,"""#], vec![]),
            (vec![r#"realm="nobody's""#], vec![]),
            (vec![r#"Bearer realm="never ends, service=s"#], vec!["Bearer never ends, service=s|-|-|-"]),
            (vec![r#"Bearer realm="ends in a backslash\"#], vec!["Bearer ends in a backslash|-|-|-"]),
            (vec!["Bearer realm=\"h\u{e9}\""], vec!["Bearer h\u{e9}|-|-|-"]),
        ] {
            assert_eq!(read(&headers), expected, "{headers:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(header) = HeaderValue::from_bytes(&bytes) {
                parse(&[header]);
            }
        }

        #[test]
        fn nothing_that_looks_like_a_header_makes_it_panic(text in "((Bearer|Basic|realm|scope|x|é)?[ ,=\"\\\\]{0,2}){0,20}") {
            if let Ok(header) = HeaderValue::from_bytes(text.as_bytes()) {
                parse(&[header]);
            }
        }

        #[test]
        fn what_is_quoted_is_read_back(value in "[ -~]{1,40}") {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
            let header = HeaderValue::from_str(&format!("Bearer service=\"{escaped}\",realm=r")).unwrap();
            let service = parse(&[header]).remove(0).service;
            prop_assert_eq!(service, Some(value.clone()).filter(|value| !value.trim().is_empty()));
        }
    }
}
