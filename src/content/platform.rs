//! Which platforms are wanted: `linux/amd64`, `linux/arm/v7`, `windows/amd64:10.0.20348`.

use std::fmt;
use std::str::FromStr;

use super::{Descriptor, Platform, SPARSE};

/// A platform as users ask for it; several platforms of an index may match it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlatformFilter {
    os: String,
    architecture: String,
    variant: Option<String>,
    os_version: Option<String>,
}

impl PlatformFilter {
    /// Reads `os/architecture[/variant][:os.version]`. The error is for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{}` is not a platform: write it like linux/amd64, linux/arm/v7 or windows/amd64:10.0.20348",
                crate::error::printable(text)
            )
        };
        let (name, os_version) = match text.split_once(':') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let word = |text: &str| {
            !text.is_empty()
                && text.len() <= 64
                && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-'))
        };
        let parts: Vec<&str> = name.split('/').collect();
        if !parts.iter().all(|part| word(part)) || os_version.is_some_and(|version| !word(version)) {
            return Err(wrong());
        }
        let (os, architecture, variant) = match parts.as_slice() {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some((*variant).to_owned())),
            _ => return Err(wrong()),
        };
        if *os == "unknown" || *architecture == "unknown" {
            return Err(format!("`{text}` marks attestations, it is no platform to run on: they travel with the platforms they are about"));
        }
        Ok(PlatformFilter {
            os: (*os).to_owned(),
            architecture: (*architecture).to_owned(),
            variant,
            os_version: os_version.map(str::to_owned),
        })
    }

    /// Whether an image for `platform` is one of those asked for. Of arm without a variant, any; `os.version` by its leading
    /// components. `unknown/unknown` never is.
    pub fn matches(&self, platform: &Platform) -> bool {
        let variant = |variant: Option<&str>| {
            variant.filter(|variant| !variant.is_empty()).or(default_variant(&self.architecture)).map(str::to_owned)
        };
        let any_variant = self.variant.is_none() && self.architecture == "arm";
        self.os == platform.os
            && self.architecture == platform.architecture
            && (any_variant || variant(self.variant.as_deref()) == variant(platform.variant.as_deref()))
            && self.os_version.as_deref().is_none_or(|wanted| {
                let rest = platform.os_version.as_deref().and_then(|version| version.strip_prefix(wanted));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
    }
}

impl PlatformFilter {
    /// Of the platforms asked for, what they run alone: attestations are left out. It is one of several filters, and matches no platform.
    pub(crate) fn without_attestations() -> Self {
        PlatformFilter { os: "no".to_owned(), architecture: "attestations".to_owned(), variant: None, os_version: None }
    }

    /// The platform as one to ask for; `None` if it has a name that cannot be asked for.
    pub(crate) fn of(platform: &Platform) -> Option<Self> {
        Self::parse(&platform.to_string()).ok().filter(|filter| filter.matches(platform))
    }

    /// Whether it means one platform. Of arm without a variant there are several; of Windows as many as it has versions, whose
    /// full number has four parts (`10.0.20348.2527`).
    pub(crate) fn is_narrow(&self) -> bool {
        let version = self.os_version.as_deref().is_some_and(|version| version.split('.').count() >= 4);
        !(self.architecture == "arm" && self.variant.is_none()) && (self.os != "windows" || version)
    }

    /// The platforms that are there, of an entry whose index has more; none: all of it is there.
    pub fn of_sparse(entry: &Descriptor) -> Vec<PlatformFilter> {
        entry.annotations.get(SPARSE).map(|text| Self::split(text)).unwrap_or_default()
    }

    /// Several as one text, separated by commas, which none of them holds.
    pub fn joined(filters: &[PlatformFilter]) -> String {
        filters.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// What [`PlatformFilter::joined`] has written; none if any part of it is no platform.
    pub fn split(text: &str) -> Vec<PlatformFilter> {
        text.split(',').map(Self::parse).collect::<Result<_, _>>().unwrap_or_default()
    }
}

/// The variant that is meant where none is said (docs/registries.md, "Platforms").
fn default_variant(architecture: &str) -> Option<&'static str> {
    match architecture {
        "arm64" => Some("v8"),
        "arm" => Some("v7"),
        "amd64" => Some("v1"),
        _ => None,
    }
}

impl FromStr for PlatformFilter {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl fmt::Display for PlatformFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if let Some(variant) = &self.variant {
            write!(f, "/{variant}")?;
        }
        if let Some(version) = &self.os_version {
            write!(f, ":{version}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn platform(os: &str, architecture: &str, variant: Option<&str>, version: Option<&str>) -> Platform {
        Platform {
            os: os.into(),
            architecture: architecture.into(),
            variant: variant.map(str::to_owned),
            os_version: version.map(str::to_owned),
        }
    }

    #[test]
    fn variants_and_versions_match_as_people_mean_them() {
        for (filter, of, expected) in [
            ("linux/amd64", platform("linux", "amd64", None, None), true),
            ("linux/amd64", platform("linux", "amd64", Some("v1"), None), true),
            ("linux/amd64", platform("linux", "amd64", Some("v2"), None), false),
            ("linux/amd64", platform("linux", "arm64", None, None), false),
            ("linux/amd64", platform("windows", "amd64", None, None), false),
            ("linux/arm64", platform("linux", "arm64", Some("v8"), None), true),
            ("linux/arm64/v8", platform("linux", "arm64", None, None), true),
            ("linux/arm64", platform("linux", "arm64", Some("v9"), None), false),
            ("linux/arm", platform("linux", "arm", Some("v6"), None), true),
            ("linux/arm", platform("linux", "arm", None, None), true),
            ("linux/arm/v7", platform("linux", "arm", Some("v6"), None), false),
            ("linux/arm/v7", platform("linux", "arm", None, None), true),
            ("windows/amd64:10.0.20348", platform("windows", "amd64", None, Some("10.0.20348.2527")), true),
            ("windows/amd64:10.0.2034", platform("windows", "amd64", None, Some("10.0.20348.2527")), false),
            ("windows/amd64:10.0.20348", platform("windows", "amd64", None, None), false),
            ("windows/amd64", platform("windows", "amd64", None, Some("10.0.17763.1")), true),
        ] {
            assert_eq!(PlatformFilter::parse(filter).unwrap().matches(&of), expected, "{filter} {of}");
        }
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in ["", "linux", "linux/", "/amd64", "linux/amd64/v1/x", "Linux/amd64", "linux/amd64:", "linux amd64", "linux/\u{1b}"] {
            assert!(PlatformFilter::parse(text).unwrap_err().contains("is not a platform"), "{text}");
        }
        assert!(PlatformFilter::parse("unknown/unknown").unwrap_err().contains("attestations"));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read(text in "\\PC{0,30}|[a-z]{1,6}/[a-z0-9]{1,6}(/v[0-9])?(:[0-9.]{1,8})?") {
            if let Ok(filter) = PlatformFilter::parse(&text) {
                prop_assert_eq!(PlatformFilter::parse(&filter.to_string()), Ok(filter));
            }
        }
        #[test]
        fn what_is_joined_is_split(texts in proptest::collection::vec("[a-z]{1,6}/[a-z0-9]{1,6}(/v[0-9])?(:[0-9.]{1,8})?", 1..4)) {
            let filters: Vec<PlatformFilter> = texts.iter().filter_map(|text| PlatformFilter::parse(text).ok()).collect();
            prop_assert_eq!(PlatformFilter::split(&PlatformFilter::joined(&filters)), filters);
        }
    }
}
