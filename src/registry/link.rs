//! The `Link` header (RFC 8288), as far as paging needs it, and addresses in headers.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

/// All values of a header as one text. Bytes that are not ASCII are percent-encoded: such an address is read as the bytes that it
/// was written in, as browsers do.
pub(crate) fn text(headers: &HeaderMap, name: HeaderName) -> String {
    headers.get_all(name).iter().map(address).collect::<Vec<_>>().join(", ")
}

/// One value as text, as [`text`] does it.
pub(crate) fn address(value: &HeaderValue) -> String {
    value.as_bytes().iter().map(|byte| if byte.is_ascii() { char::from(*byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The target of the link whose relation is `next`. Several links in one header, several headers' worth joined by commas,
/// commas and semicolons within the target, and any case and quoting of the parameters are understood.
pub(crate) fn next(header: &str) -> Option<&str> {
    let mut rest = header;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (target, after) = after.split_once('>')?;
        let (parameters, others) = parameters(after);
        if parameters.iter().any(|(name, value)| name.eq_ignore_ascii_case("rel") && has_word(value, "next")) {
            return Some(target);
        }
        rest = others;
    }
}

fn has_word(value: &str, word: &str) -> bool {
    value.split_ascii_whitespace().any(|found| found.eq_ignore_ascii_case(word))
}

/// The parameters up to the comma that ends this link, and what follows it.
fn parameters(text: &str) -> (Vec<(&str, &str)>, &str) {
    let mut found = vec![];
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        if rest.is_empty() || rest.starts_with(',') {
            return (found, rest);
        }
        let end = rest.find(['=', ';', ',']).unwrap_or(rest.len());
        let name = rest[..end].trim();
        rest = &rest[end..];
        let Some(value) = rest.strip_prefix('=') else {
            found.push((name, ""));
            continue;
        };
        let value = value.trim_start();
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => value.split_at(value.find([';', ',']).unwrap_or(value.len())),
        };
        found.push((name, value.trim()));
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn links_of_every_style() {
        for (header, expected) in [
            ("</v2/a/tags/list?n=2&last=b>; rel=\"next\"", Some("/v2/a/tags/list?n=2&last=b")),
            ("<https://r.io/v2/a/tags/list?last=b>;rel=next", Some("https://r.io/v2/a/tags/list?last=b")),
            ("</x>; REL=\"Next\"", Some("/x")),
            ("</first>; rel=\"first\", </next>; rel=\"next\"", Some("/next")),
            ("</a,b;c>; title=\"x, <y>; rel=next\"; rel=\"prev next\"", Some("/a,b;c")),
            ("</x>; rel = \"next\"", Some("/x")),
            ("</x>; crossorigin; rel=next", Some("/x")),
            ("<>; rel=next", Some("")),
            ("</x>; rel=\"nextish\"", None),
            ("</x>", None),
            ("</x; rel=next", None),
            ("", None),
        ] {
            assert_eq!(next(header), expected, "{header}");
        }
    }

    #[test]
    fn bytes_that_are_not_ascii_are_kept() {
        let mut headers = HeaderMap::new();
        headers.append("link", HeaderValue::from_bytes("</v2/a/tags/list?last=ü>; rel=\"next\"".as_bytes()).unwrap());
        headers.append("link", HeaderValue::from_bytes(b"</\xff>; rel=first").unwrap());
        let text = text(&headers, reqwest::header::LINK);
        assert_eq!(text, "</v2/a/tags/list?last=%C3%BC>; rel=\"next\", </%FF>; rel=first");
        assert_eq!(next(&text), Some("/v2/a/tags/list?last=%C3%BC"));
    }

    proptest! {
        #[test]
        fn any_header_is_survived(header in "[<>;,=\" a-z]{0,60}|\\PC{0,60}") {
            let _ = next(&header);
        }
        #[test]
        fn any_target_is_found_behind_any_other_link(target in "[^<>]{0,30}", other in "[^<>]{0,30}") {
            let header = format!("<{other}>; rel=prev, <{target}>; rel=\"next\"");
            prop_assert_eq!(next(&header), Some(target.as_str()));
        }
    }
}
