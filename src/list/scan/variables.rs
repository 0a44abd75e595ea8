//! Expands `$NAME` and `${NAME:-default}`, as in Dockerfiles, Compose files and Flux substitutions.

/// The largest nesting of defaults within defaults; more than two is unusual.
const MOST_LEVELS: usize = 16;

/// `text` with variables replaced by the values of `lookup`, else by their defaults. The error is a message.
pub(super) fn substitute(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    expand(text, lookup, MOST_LEVELS)
}

fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>, levels: usize) -> Result<String, String> {
    if levels == 0 {
        return Err("defaults within defaults, too many".to_owned());
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(braced) = after.strip_prefix('{') {
            let end = closing(braced).ok_or_else(|| format!("`{text}`: a `${{` is never closed"))?;
            out.push_str(&value(&braced[..end], lookup, levels)?);
            rest = &braced[end + 1..];
        } else if let Some(escaped) = after.strip_prefix('$') {
            out.push('$');
            rest = escaped;
        } else {
            let end = name_end(after);
            if end == 0 {
                return Err(format!("`{text}`: no name follows `$`"));
            }
            out.push_str(&known(&after[..end], lookup)?);
            rest = &after[end..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The position of the brace that closes the one open at the start of `text`.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

fn name_end(text: &str) -> usize {
    text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len())
}

fn known(name: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    lookup(name).ok_or_else(|| format!("`${name}` has no value here and no default"))
}

/// Expands the text between braces.
fn value(inside: &str, lookup: &dyn Fn(&str) -> Option<String>, levels: usize) -> Result<String, String> {
    let (name, operator) = inside.split_at(name_end(inside));
    if name.is_empty() {
        return Err(format!("`${{{inside}}}`: no name stands in the braces"));
    }
    let set = lookup(name);
    // With a colon, an empty value counts as unset.
    let (set, bare) = match operator.strip_prefix(':') {
        Some(bare) => (set.filter(|value| !value.is_empty()), bare),
        None => (set, operator),
    };
    let mut characters = bare.chars();
    match (characters.next(), set) {
        (None, _) => known(name, lookup),
        (Some('-' | '=' | '?'), Some(value)) => Ok(value),
        (Some('-' | '='), None) | (Some('+'), Some(_)) => expand(characters.as_str(), lookup, levels - 1),
        (Some('+'), None) => Ok(String::new()),
        (Some('?'), None) => Err(format!("`${name}` must be given from outside")),
        (Some(_), _) => Err(format!("`${{{inside}}}` is not understood")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "TAG" => Some("3.20".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn values_and_defaults_are_put_in() {
        for (text, expected) in [
            ("alpine", "alpine"),
            ("alpine:$TAG", "alpine:3.20"),
            ("alpine:${TAG}-x", "alpine:3.20-x"),
            ("alpine:${NO:-3.19}", "alpine:3.19"),
            ("alpine:${EMPTY:-3.19}", "alpine:3.19"),
            ("alpine${EMPTY-x}", "alpine"),
            ("${NO:-quay.io/${ALSO_NO-a/b}}:$TAG", "quay.io/a/b:3.20"),
            ("alpine${TAG:+:}${TAG}${NO:+x}", "alpine:3.20"),
            ("a$$b", "a$b"),
            ("${NO:=x}", "x"),
        ] {
            assert_eq!(substitute(text, &lookup).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_has_no_value_is_an_error_with_a_reason() {
        for (text, expected) in [
            ("alpine:$NO", "`$NO` has no value here and no default"),
            ("alpine:${NO}", "`$NO` has no value here and no default"),
            ("${NO:?give it}", "`$NO` must be given from outside"),
            ("${NO", "`${NO`: a `${` is never closed"),
            ("a:$", "`a:$`: no name follows `$`"),
            ("${}", "`${}`: no name stands in the braces"),
            ("${TAG#3}", "`${TAG#3}` is not understood"),
        ] {
            assert_eq!(substitute(text, &lookup).unwrap_err(), expected, "{text}");
        }
        assert!(substitute(&format!("{}{}", "${A:-".repeat(10_000), "}".repeat(10_000)), &lookup).is_err());
    }

    proptest! {
        #[test]
        fn it_never_panics(text in "[${}:+?a-cé-]{0,40}") {
            let _ = substitute(&text, &lookup);
        }
    }
}
