//! Words and variables of a shell script (POSIX.1-2024, Shell Command Language 2.2).

/// `text` quoted as one word.
pub(super) fn word(text: &str) -> String {
    let plain = !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | ':' | '@' | '%' | '+' | '=' | '-'));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// A variable's name from that of a rule or set.
pub(super) fn variable(name: &str, ending: &str) -> String {
    let stem = name.to_ascii_uppercase().replace('-', "_");
    let first = if stem.starts_with(|c: char| c.is_ascii_digit()) { "_" } else { "" };
    format!("{first}{stem}_{ending}")
}

/// A line that ends the script with a message if a variable is not set.
pub(super) fn required(variable: &str, what: &str) -> String {
    format!(": \"${{{variable}:?{what}}}\"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_they_must_be() {
        for (text, expected) in [("a/b:c", "a/b:c"), ("library/*", "'library/*'"), ("", "''"), ("it's", r"'it'\''s'"), ("$X", "'$X'")] {
            assert_eq!(word(text), expected);
        }
        assert_eq!(variable("docker-hub", "ID"), "DOCKER_HUB_ID");
        assert_eq!(variable("9x", "ID"), "_9X_ID");
    }
}
