//! Known registries and how they differ: one table.
//!
//! A profile is recognised by the host's name, or named by `profile = "…"` in `[registry."…"]`. The facts and their
//! sources stand in docs/registries.md, "Registries". What is marked unverified there decides nothing but speed. Which upstreams the artifact cache pulls from with credentials is said by
//! [`crate::rules::authentication`].

mod caching;

pub use caching::{BlobOrigin, CacheLists, CacheNaming, CacheRefresh, Caching, HeadCost};

/// How one kind of registry behaves.
#[derive(Debug, PartialEq)]
pub struct Profile {
    /// What `profile = "…"` calls it.
    pub name: &'static str,
    /// Hosts that are of this kind: a name, or `*` and what a name ends with.
    pub hosts: &'static [&'static str],
    /// Where the API is, if not at the host's own name. Of recognised hosts only: a mirror is where it is.
    pub endpoint: Option<&'static str>,
    /// What counts as a pull.
    pub pulls: PullCounting,
    /// Requests a second, where the configuration says nothing.
    pub pace: RequestRate,
    /// Requests in flight at most, where the configuration says nothing.
    pub concurrency: usize,
    /// How blobs are uploaded.
    pub upload: UploadStyle,
    /// Whether blobs are mounted.
    pub mount: MountStyle,
    /// Tags to ask for in a page.
    pub tag_page: usize,
    /// Whether it has the referrers API.
    pub referrers: Support,
    /// How a repository comes to be.
    pub creation: Creation,
    /// How it behaves as a pull-through cache, for rules with `delivery = "warm"`.
    pub caching: &'static Caching,
    /// Whether it is a pull-through cache and nothing else: all of its repositories are filled by being pulled.
    pub only_cache: bool,
}

/// What an upstream counts as a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullCounting {
    /// Each GET of a manifest, and no HEAD. This image may always be asked for by HEAD to learn what is left.
    ManifestGet {
        /// Its repository and tag.
        probe: (&'static str, &'static str),
    },
    /// Nothing that is known. What its answers' headers say counts all the same.
    NothingKnown,
}

/// Requests a second; `None`: no limit of this kind is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestRate {
    /// Without a login.
    pub anonymous: Option<f64>,
    /// With one.
    pub logged_in: Option<f64>,
}

/// How a blob is uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadStyle {
    /// One PUT of the whole; by PATCH once that was refused as too large.
    Put,
    /// One PUT of the whole, and nothing else: it takes no chunks.
    OnlyPut,
    /// One streaming PATCH, and an empty PUT.
    Patch,
}

/// Whether a blob of one repository can be had in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountStyle {
    /// Yes, as the specification has it: we always say `from`, without which some refuse.
    Yes,
    /// Only if its owner has switched it on: one refusal is enough to believe that he has not.
    IfSwitchedOn,
}

/// Whether a registry has something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It has.
    Yes,
    /// It has not.
    No,
    /// Ask it.
    Unknown,
}

/// How a repository comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// By the first push.
    OnPush,
    /// `aws ecr create-repository`, unless a creation template makes it on push \[M\].
    Ecr,
    /// `aws ecr-public create-repository`.
    EcrPublic,
    /// The first two parts of the path, a project and its repository, must exist: `gcloud artifacts repositories create`.
    ArtifactRegistry,
    /// The first part of the path, the project, must exist.
    HarborProject,
    /// Nothing is pushed there.
    ReadOnly,
}

/// What to do about a target that is a pull-through cache.
pub(crate) const CACHE_REMEDY: &str =
    "set delivery = \"warm\" in the rule, or writable_cache = true in [target] if the cache accepts pushes";

/// Requests in flight to one registry at most. At a distance of 30 ms that is 2,000 requests a second, more than one machine gets from any
/// registry; how many of them are of use, the limiter measures.
pub const CONCURRENCY: usize = 64;

/// The same for registries that limit requests per second or minute and answer 429 beyond (docs/registries.md): more in flight would reach
/// their limit sooner, and nothing else. 16 is what larder allowed every target before it measured.
const CAREFUL: usize = 16;

const NO_PACE: RequestRate = RequestRate { anonymous: None, logged_in: None };

/// The most that ECR and Distribution give in a page of tags. Who gives fewer says so with a Link.
const USUAL_PAGE: usize = 1000;

/// A registry of which nothing is known.
pub static UNKNOWN: Profile = Profile {
    name: "none",
    hosts: &[],
    endpoint: None,
    pulls: PullCounting::NothingKnown,
    pace: NO_PACE,
    concurrency: CONCURRENCY,
    upload: UploadStyle::Put,
    mount: MountStyle::Yes,
    tag_page: USUAL_PAGE,
    referrers: Support::Unknown,
    creation: Creation::OnPush,
    caching: &caching::GENERIC,
    only_cache: false,
};

/// All profiles. What a row does not say is as in [`UNKNOWN`].
pub static PROFILES: [Profile; 14] = [
    // Docker Hardened Images: pulled with a Docker account. Whether its pulls are counted with Docker Hub's, no public source says; what its
    // answers say counts.
    Profile { name: "dhi", hosts: &["dhi.io"], creation: Creation::ReadOnly, ..UNKNOWN },
    // 3.3: pulls are counted per 6 h; HEADs are free; requests per minute in the thousands.
    Profile {
        name: "docker-hub",
        hosts: &["docker.io"],
        endpoint: Some("registry-1.docker.io"),
        pulls: PullCounting::ManifestGet { probe: ("ratelimitpreview/test", "latest") },
        concurrency: CAREFUL,
        ..UNKNOWN
    },
    // 3.8: egress limits, by location, answered with 429 and a back-off to respect.
    Profile { name: "mcr", hosts: &["mcr.microsoft.com"], creation: Creation::ReadOnly, concurrency: CAREFUL, ..UNKNOWN },
    // 3.4: 1 pull a second without a login, 10 with one. Which requests make a pull is not said; all are taken for one.
    Profile {
        name: "ecr-public",
        hosts: &["public.ecr.aws"],
        pace: RequestRate { anonymous: Some(1.0), logged_in: Some(10.0) },
        mount: MountStyle::IfSwitchedOn,
        creation: Creation::EcrPublic,
        concurrency: CAREFUL,
        ..UNKNOWN
    },
    // 3.6: no published limits; 429s name their delay in the message. No chunks (4.3), no referrers API.
    Profile { name: "ghcr", hosts: &["ghcr.io"], upload: UploadStyle::OnlyPut, referrers: Support::No, concurrency: CAREFUL, ..UNKNOWN },
    // 3.7: "a few requests per second per IP, with some bursting"; the sources' own templates allow 5 tag lists a second.
    // Pages of 50 tags. A mount without `from` fails.
    Profile {
        name: "quay",
        hosts: &["quay.io"],
        pace: RequestRate { anonymous: Some(5.0), logged_in: Some(5.0) },
        tag_page: 50,
        concurrency: CAREFUL,
        ..UNKNOWN
    },
    // 3.9: only GET and HEAD; everything is redirected to a regional Artifact Registry or to S3.
    Profile { name: "registry-k8s", hosts: &["registry.k8s.io"], creation: Creation::ReadOnly, ..UNKNOWN },
    // 3.11: the hosts of the former Container Registry, which are Artifact Registry now: 1,000 requests a second for a project.
    Profile { name: "gcr", hosts: &["gcr.io", "*.gcr.io"], upload: UploadStyle::OnlyPut, ..UNKNOWN },
    // 3.11: no chunked uploads.
    Profile {
        name: "artifact-registry",
        hosts: &["*.pkg.dev"],
        upload: UploadStyle::OnlyPut,
        creation: Creation::ArtifactRegistry,
        caching: &caching::ARTIFACT_REGISTRY,
        ..UNKNOWN
    },
    // 3.10: writes per minute by SKU, answered with 429 and Retry-After. Large bodies in one PUT are refused. Referrers, except
    // in registries with customer-managed keys.
    Profile {
        name: "acr",
        hosts: &["*.azurecr.io", "*.azurecr.cn", "*.azurecr.us"],
        upload: UploadStyle::Patch,
        referrers: Support::Yes,
        caching: &caching::ACR,
        concurrency: CAREFUL,
        ..UNKNOWN
    },
    // 3.5: 10 manifests a second is the narrowest of its limits. Mounts only with BLOB_MOUNTING switched on.
    Profile {
        name: "ecr",
        hosts: &["*.amazonaws.com", "*.amazonaws.com.cn"],
        mount: MountStyle::IfSwitchedOn,
        creation: Creation::Ecr,
        caching: &caching::ECR,
        concurrency: CAREFUL,
        ..UNKNOWN
    },
    // 3.12: has no name of its own to be recognised by.
    Profile {
        name: "harbor",
        hosts: &[],
        referrers: Support::Yes, // since 2.8 (unverified)
        creation: Creation::HarborProject,
        caching: &caching::HARBOR,
        ..UNKNOWN
    },
    // 2.4: nothing can be pushed to it. No referrers API (4.5).
    Profile {
        name: "distribution-proxy",
        hosts: &[],
        referrers: Support::No,
        creation: Creation::ReadOnly,
        caching: &caching::DISTRIBUTION,
        only_cache: true,
        ..UNKNOWN
    },
    // A cache of which nothing is known.
    Profile { name: "generic", hosts: &[], ..UNKNOWN },
];

/// The profile of this name; the error, for a person, lists them all.
pub fn named(name: &str) -> Result<&'static Profile, String> {
    PROFILES.iter().find(|profile| profile.name == name).ok_or_else(|| {
        let names: Vec<&str> = PROFILES.iter().map(|profile| profile.name).collect();
        format!("`{name}` is not known: it is one of {}", names.join(", "))
    })
}

/// The profile that `host` (in normal form) is recognised to have.
pub fn recognised(host: &str) -> Option<&'static Profile> {
    let matches = |pattern: &str| match pattern.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => host == pattern,
    };
    PROFILES.iter().find(|profile| profile.hosts.iter().any(|pattern| matches(pattern)))
}

impl Profile {
    /// Requests a second for who has logged in, or not.
    pub fn requests_per_second(&self, anonymous: bool) -> Option<f64> {
        if anonymous { self.pace.anonymous } else { self.pace.logged_in }
    }

    /// The part of a repository's path that is a cache, or is none, as a whole. Azure's and ECR's rules name repositories or patterns of
    /// any depth; the other kinds decide it for a project or a repository of theirs, with which the path begins.
    pub(crate) fn cached_as_one<'p>(&self, path: &'p str) -> &'p str {
        let parts = match self.name {
            "acr" | "ecr" | "ecr-public" => return path,
            "artifact-registry" => 2,
            _ => 1,
        };
        path.match_indices('/').nth(parts - 1).map_or(path, |(end, _)| &path[..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_recognised() {
        for (host, expected) in [
            ("docker.io", Some("docker-hub")),
            ("dhi.io", Some("dhi")),
            ("mcr.microsoft.com", Some("mcr")),
            ("public.ecr.aws", Some("ecr-public")),
            ("ghcr.io", Some("ghcr")),
            ("quay.io", Some("quay")),
            ("registry.k8s.io", Some("registry-k8s")),
            ("gcr.io", Some("gcr")),
            ("eu.gcr.io", Some("gcr")),
            ("europe-docker.pkg.dev", Some("artifact-registry")),
            ("contoso.azurecr.io", Some("acr")),
            ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", Some("ecr")),
            ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", Some("ecr")),
            (".azurecr.io", None),
            ("azurecr.io", None),
            ("evilazurecr.io", None),
            ("harbor.corp", None),
            ("127.0.0.1:5000", None),
        ] {
            assert_eq!(recognised(host).map(|profile| profile.name), expected, "{host}");
        }
    }

    #[test]
    fn caches_are_told_apart_by_the_part_of_the_path_that_decides_it() {
        for (profile, path, expected) in [
            ("acr", "library/alpine", "library/alpine"),
            ("ecr", "hub/library/alpine", "hub/library/alpine"),
            ("artifact-registry", "project/hub/library/alpine", "project/hub"),
            ("artifact-registry", "project/hub", "project/hub"),
            ("harbor", "hub/library/alpine", "hub"),
            ("generic", "alpine", "alpine"),
        ] {
            assert_eq!(named(profile).unwrap().cached_as_one(path), expected, "{profile}");
        }
        let only: Vec<&str> = PROFILES.iter().filter(|profile| profile.only_cache).map(|profile| profile.name).collect();
        assert_eq!(only, ["distribution-proxy"]);
    }

    #[test]
    fn every_profile_has_its_name() {
        for profile in &PROFILES {
            assert_eq!(named(profile.name), Ok(profile));
        }
        let message = named("dockerhub").unwrap_err();
        assert!(
            message.contains(
                "docker-hub, mcr, ecr-public, ghcr, quay, registry-k8s, gcr, artifact-registry, acr, ecr, harbor, distribution-proxy, generic"
            ),
            "{message}"
        );
    }
}
