//! What Azure Container Registry's artifact cache makes of rules (registries.md 1.2 to 1.4).

/// What is wrong with the name of a cache rule or credential set at Azure: 5 to 50 letters, digits and hyphens.
pub(super) fn name_problem(name: &str) -> Option<String> {
    let legal = (5..=50).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    (!legal).then(|| format!("a name has 5 to 50 letters, digits and hyphens at Azure; this has {}", name.len()))
}
