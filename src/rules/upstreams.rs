//! Which upstreams the artifact cache pulls from with credentials, and which without.
//!
//! Source: MicrosoftDocs/azure-management-docs, articles/container-registry/artifact-cache-overview.md, with the
//! rows of 2025-11, 2026-04 and 2026-05 (docs/registries.md, "Azure: upstreams").

/// How an upstream may be pulled through the artifact cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    /// With credentials only.
    Required,
    /// With credentials, or by an Azure identity that needs no secret: another Azure registry by a managed identity,
    /// Google's by workload identity federation.
    OrIdentity,
    /// Without credentials only.
    Refused,
    /// Either way.
    Optional,
}

/// Host (a leading `*.` stands for one or more labels), and the policy.
const UPSTREAMS: [(&str, Authentication); 13] = [
    ("docker.io", Authentication::Required),
    ("dhi.io", Authentication::Required),
    ("*.azurecr.io", Authentication::OrIdentity),
    ("mcr.microsoft.com", Authentication::Refused),
    ("public.ecr.aws", Authentication::Refused),
    ("ghcr.io", Authentication::Optional),
    ("quay.io", Authentication::Optional),
    ("registry.k8s.io", Authentication::Optional),
    ("*.pkg.dev", Authentication::OrIdentity),
    ("gcr.io", Authentication::Optional),
    ("nvcr.io", Authentication::Optional),
    ("registry.redhat.io", Authentication::Required),
    ("registry.access.redhat.com", Authentication::Refused),
];

/// The policy of `host` in the table; `None` if the artifact cache does not support it.
pub fn authentication(host: &str) -> Option<Authentication> {
    let matches = |pattern: &str| match pattern.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => host == pattern,
    };
    UPSTREAMS.iter().find(|(pattern, _)| matches(pattern)).map(|(_, authentication)| *authentication)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_by_name_and_by_suffix() {
        for (host, expected) in [
            ("docker.io", Some(Authentication::Required)),
            ("contoso.azurecr.io", Some(Authentication::OrIdentity)),
            ("europe-docker.pkg.dev", Some(Authentication::OrIdentity)),
            ("mcr.microsoft.com", Some(Authentication::Refused)),
            ("quay.io", Some(Authentication::Optional)),
            ("azurecr.io", None),
            (".azurecr.io", None),
            ("evilazurecr.io", None),
            ("registry.example.com", None),
        ] {
            assert_eq!(authentication(host), expected, "{host}");
        }
    }
}
