//! Text from outside, made safe for a terminal, a log and a report.

use std::borrow::Cow;

/// Text with every control and format character as a visible escape, line breaks and tabs apart: safe for a terminal.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, |c, out| out.extend(c.escape_unicode()))
}

/// The same for a line of JSON, with JSON's own escapes: it means what it meant.
pub(crate) fn visible_json(text: &str) -> Cow<'_, str> {
    escaped(text, |c, out| c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))))
}

fn escaped(text: &str, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    let is_plain = |c: char| matches!(c, '\n' | '\t') || !is_unprintable(c);
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|c| if is_plain(c) { out.push(c) } else { escape(c, &mut out) });
    Cow::Owned(out)
}

/// Text from a registry or a list, made safe for a terminal and a log: control and format characters become visible
/// escapes, line breaks become spaces, user names and passwords of URLs are left out, and it ends after 1,000 characters (an error is
/// one line, not a web page).
pub fn printable(text: &str) -> String {
    const MOST: usize = 1000;
    let text = &*without_userinfo(text);
    let mut out = String::with_capacity(text.len().min(MOST));
    for (count, c) in text.chars().enumerate() {
        if count == MOST {
            out.push('…');
            break;
        }
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            c if is_unprintable(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// What stands in the place of a user name and password.
const REDACTED: &str = "[redacted]";

/// `text` without the user names and passwords of URLs in it: `https://user:password@host` and `user:password@host`.
///
/// A reference (`name:tag@sha256:…`) has the same shape as the second; a digest after the `@` tells.
pub(crate) fn without_userinfo(text: &str) -> Cow<'_, str> {
    if !text.contains('@') {
        return Cow::Borrowed(text);
    }
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ',' | ';' | '<' | '>' | '(' | ')' | '[' | ']');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let (word, after) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
        out.push_str(&redacted_word(word));
        let separator = after.chars().next().map_or(0, char::len_utf8);
        out.push_str(&after[..separator]);
        rest = &after[separator..];
    }
    Cow::Owned(out)
}

fn redacted_word(word: &str) -> Cow<'_, str> {
    let (scheme, rest) = word.find("//").map_or(("", word), |at| word.split_at(at + 2));
    let Some(end) = rest.rfind('@') else { return Cow::Borrowed(word) };
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    // A password may hold a slash that should have been written as %2F. What stands before it is no host and port then.
    let torn = || authority.split_once(':').is_some_and(|(_, port)| port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()));
    let secret = match authority.rfind('@') {
        Some(at) if !scheme.is_empty() || (rest[..at].contains(':') && !is_digest(&rest[at + 1..])) => at,
        None if torn() && !is_digest(&rest[end + 1..]) => end,
        _ => return Cow::Borrowed(word),
    };
    Cow::Owned(format!("{scheme}{REDACTED}{}", &rest[secret..]))
}

/// Whether text begins as a digest does: an algorithm, and hex digits.
fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    // Messages show the first digits only.
    algorithm.starts_with("sha") && hex.bytes().take(8).all(|byte| byte.is_ascii_hexdigit())
}

/// Control characters, and the invisible ones that reorder or hide text (Unicode's Cf class in the ranges that terminals
/// act on: bidirectional marks and overrides, zero-width characters, tags).
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{AD}' | '\u{61C}' | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_has_no_character_that_a_terminal_acts_on() {
        let hostile = "a\u{202e}b\x1b[31m\u{9b}c\u{61c}\n\td\u{e0041}";
        assert_eq!(visible(hostile), "a\\u{202e}b\\u{1b}[31m\\u{9b}c\\u{61c}\n\td\\u{e0041}");
        let line = serde_json::json!({ "name": hostile }).to_string();
        let shown = visible_json(&line);
        assert!(!shown.chars().any(is_unprintable), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap()["name"], hostile);
    }

    #[test]
    fn user_names_and_passwords_of_urls_are_left_out() {
        for (text, expected) in [
            ("read https://ann:hunter2@quay.io/a failed", "read https://[redacted]@quay.io/a failed"),
            ("`https://ann:hun@ter2@quay.io:5000/a`", "`https://[redacted]@quay.io:5000/a`"),
            ("https://ann:hun/ter2@quay.io/a", "https://[redacted]@quay.io/a"),
            ("https://hunter2@quay.io/a", "https://[redacted]@quay.io/a"),
            ("`//ann:hunter2@quay.io`", "`//[redacted]@quay.io`"),
            ("http://ann:hunter2@proxy.corp:3128", "http://[redacted]@proxy.corp:3128"),
            ("socks5h://ann:hunter2@[::1]:1080,x", "socks5h://[redacted]@[::1]:1080,x"),
            ("\"ann:hunter2@quay.io/a:1\"", "\"[redacted]@quay.io/a:1\""),
            ("ann:hunter2@quay.io/a@sha256:0011223344", "[redacted]@quay.io/a@sha256:0011223344"),
            // Anything else stays as it is.
            ("quay.io/a:1@sha256:0011223344556677", "quay.io/a:1@sha256:0011223344556677"),
            ("a:1@sha256:00112233…", "a:1@sha256:00112233…"),
            ("localhost:5000/a/b:1@sha512:0011223344", "localhost:5000/a/b:1@sha512:0011223344"),
            ("https://quay.io/v2/a/manifests/x@y", "https://quay.io/v2/a/manifests/x@y"),
            ("https://quay.io:443/v2/a@b", "https://quay.io:443/v2/a@b"),
            ("ann@example.com", "ann@example.com"),
            ("a@b: c", "a@b: c"),
        ] {
            assert_eq!(without_userinfo(text), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_password_survives_in_a_url(password in "[a-zA-Z0-9!$&*+=~._-]{6,20}", before in "[a-z ]{0,10}", after in "[a-z/:.]{0,20}") {
            let text = format!("{before} https://ann:{password}@quay.io/{after}");
            let shown = printable(&text);
            let secret = format!(":{password}");
            proptest::prop_assert!(!shown.contains(&secret), "{}", shown);
        }
        #[test]
        fn any_text_is_survived(text in "\\PC{0,80}|[a-z:@/\"` é]{0,40}") {
            let _ = without_userinfo(&text);
        }
    }

    #[test]
    fn a_long_message_is_cut() {
        assert_eq!(printable(&"x".repeat(5000)).chars().count(), 1001);
    }
}
