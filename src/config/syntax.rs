//! Lines of the file, and what the TOML parser says about it, on one line.

use toml::Spanned;

/// Byte offsets to line numbers.
pub(super) struct LineIndex(Vec<usize>);

impl LineIndex {
    pub(super) fn new(text: &str) -> Self {
        LineIndex(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect())
    }

    /// The line (from 1) that the byte at `offset` stands in.
    pub(super) fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|newline| *newline < offset) + 1
    }

    pub(super) fn of<T>(&self, value: &Spanned<T>) -> usize {
        self.at(value.span().start)
    }
}

/// Where and what: the parser's message without its picture of the line, which could show a secret.
pub(super) fn problem(error: &toml::de::Error, lines: &LineIndex, text: &str) -> (Option<usize>, String) {
    let line = error.span().map(|span| lines.at(span.start));
    let written = line.and_then(|line| text.lines().nth(line - 1)).unwrap_or_default().trim();
    if let Some(message) = unquoted_host(error.message(), written, text).or_else(|| lone_value(error.message(), written)) {
        return (line, message);
    }
    let message = later_key(error.message()).or_else(|| unknown_key(error.message())).unwrap_or_else(|| error.message().to_owned());
    (line, message)
}

/// `[registry.docker.io]`: TOML reads a table `io` in a table `docker`.
fn unquoted_host(message: &str, written: &str, text: &str) -> Option<String> {
    let host = |line: &str| {
        let host = line.trim().strip_prefix("[registry.")?.split(']').next()?.trim().to_owned();
        (host.contains(['.', ':']) && !host.contains(['"', '\''])).then_some(host)
    };
    let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    // The parser may name a line below the header.
    let is_part = |host: &String| unknown.is_some_and(|key| host.split('.').skip(1).any(|part| part == key));
    // A colon is no character of TOML's bare keys.
    let here = host(written).filter(|host| host.contains(':') || is_part(host));
    let host = here.or_else(|| text.lines().filter_map(host).find(is_part))?;
    Some(format!("`[registry.{host}]` is read as tables within tables: write `[registry.\"{host}\"]`, with quotes around the host"))
}

/// One text where a list belongs.
fn lone_value(message: &str, written: &str) -> Option<String> {
    if !(message.starts_with("invalid type: string") && message.ends_with("expected a sequence")) {
        return None;
    }
    let (key, value) = written.split_once('=').map(|(key, value)| (key.trim(), value.trim()))?;
    Some(format!("`{key}` is read as one text, and is a list: write `{key} = [{value}]`"))
}

/// Keys of later versions: a key that this version knows in the same table, and those beside it.
const LATER: [(&str, &[&str]); 5] = [
    ("lists", &["notify"]),
    ("repository_prefix", &["name", "create_repositories"]),
    (
        "immutable_tags",
        &[
            "verify",
            "verify_on",
            "annotations",
            "trusted_root",
            "min_age",
            "min_age_from",
            "gate",
            "on_move",
            "targets",
            "accounts",
            "check_every",
        ],
    ),
    ("login_server", &["identity"]),
    ("endpoint", &["mirrors"]),
];

/// What to say of a key that only later versions know.
fn later_key(message: &str) -> Option<String> {
    let (key, expected) = message.strip_prefix("unknown field `")?.split_once('`')?;
    let (_, later) = LATER.iter().find(|(known, _)| expected.contains(&format!("`{known}`")))?;
    later.contains(&key).then(|| format!("`{key}` is not in this version"))
}

/// serde's `unknown field` in words for a user: with the key that was probably meant.
fn unknown_key(message: &str) -> Option<String> {
    let (key, expected) = message.strip_prefix("unknown field `")?.split_once('`')?;
    let expected: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let near = expected.iter().map(|name| (distance(key, name), *name)).min();
    let meant = match near {
        // Two slips of the finger, but not half of a short key.
        Some((slips, name)) if slips <= 2 && slips * 2 < name.len() => format!("; did you mean `{name}`?"),
        _ => String::new(),
    };
    Some(format!("unknown key `{key}`{meant} (known here: {})", expected.join(", ")))
}

/// Letters to change, insert or remove to make `a` into `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_become_lines() {
        let lines = LineIndex::new("ab\n\ncd\n");
        for (offset, line) in [(0, 1), (2, 1), (3, 2), (4, 3), (6, 3), (7, 4)] {
            assert_eq!(lines.at(offset), line, "{offset}");
        }
    }

    #[test]
    fn distances_count_slips() {
        for (a, b, slips) in
            [("", "", 0), ("target", "target", 0), ("taget", "target", 1), ("credential", "credentials", 1), ("", "abc", 3)]
        {
            assert_eq!(distance(a, b), slips, "{a} {b}");
        }
    }

    #[test]
    fn the_key_that_was_meant_is_named() {
        let message = "unknown field `sorce`, expected one of `name`, `source`";
        assert_eq!(unknown_key(message).unwrap(), "unknown key `sorce`; did you mean `source`? (known here: name, source)");
        assert_eq!(unknown_key("unknown field `x`, expected `a` or `b`").unwrap(), "unknown key `x` (known here: a, b)");
        assert_eq!(unknown_key("missing field `x`"), None);
    }
}
