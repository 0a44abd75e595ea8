//! Known registries as pull-through caches: what a pull makes them do, which HEADs are free, how long they keep what they have.
//!
//! Facts: docs/registries.md, "Azure: what a pull does" and "Other caches"; Harbor's `src/server/middleware/repoproxy/proxy.go`; what
//! docker-registry 2.8.2 was seen to ask of its upstream.

use std::time::Duration;

/// How one kind of registry behaves as a cache.
#[derive(Debug, PartialEq, Eq)]
pub struct Caching {
    /// Whether an answer about a manifest says so (`X-Azure-Origin`) if the cache had to ask its upstream: one that does not is the
    /// cache's own, and so proves that the cache has it.
    pub says_origin: bool,
    /// Whether its answers about blobs say where they come from.
    pub blobs: BlobOrigin,
    /// What a HEAD of a manifest that it does not have costs.
    pub head: HeadCost,
    /// How long a completed pull proves that it has an image, where it does not prove that itself (`warm_ttl` of a rule goes first).
    pub warm_ttl: Duration,
    /// When it notices that a tag has moved upstream.
    pub refresh: CacheRefresh,
    /// What becomes of an index.
    pub lists: CacheLists,
    /// Under which name it has what its upstream has.
    pub naming: CacheNaming,
    /// Whether it may keep answers by their address and method (nginx, Squid and other caches of HTTP): a manifest that was pulled by its
    /// tag is not there by its digest then, and one that was got may not be there for a HEAD.
    pub by_address: bool,
}

/// How answers about blobs say that they are passed on from the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobOrigin {
    /// By an `ETag` that is the digest without the quotes which an own answer has: Distribution's proxy, since 2.0. It stores in the
    /// background what it passes on, and while it does, what other repositories ask of the same blob is passed on and not stored.
    BareEtag,
    /// Not at all.
    Unsaid,
}

/// What a HEAD of a manifest costs that a cache does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadCost {
    /// The cache sends a HEAD to its upstream, which is free.
    Nothing,
    /// The cache fetches the manifest, or may: larder asks only for what it knows to be there.
    Pull,
}

/// When a cache asks its upstream what a tag means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheRefresh {
    /// Each time it is asked: if it answers an older digest, it could not ask its upstream.
    Always,
    /// Not again before so much time has passed.
    Within(Duration),
    /// Nobody knows.
    Unknown,
}

/// What a cache does with an index that is pulled through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheLists {
    /// It keeps the index; of its children those that are pulled.
    Pulled,
    /// It keeps the index and pulls all its children at once, whoever asked for which.
    Whole,
    /// It keeps an index without the children that nobody pulled: its digest is not the upstream's.
    Trimmed,
}

/// How a name at a cache becomes one at its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheNaming {
    /// A rule of the cache says it, for each repository or pattern.
    Rules,
    /// What follows a prefix (a project, a repository, a rule's) is the upstream's path to the letter; official images of Docker
    /// Hub are below `library/`.
    Prefix,
    /// It is the same.
    Same,
}

impl Caching {
    /// What a cache is that was seen to say where an answer came from: of a kind that nobody has named, Azure's.
    pub(crate) fn that_says_origin(&'static self) -> &'static Caching {
        if std::ptr::eq(self, &GENERIC) { &ACR } else { self }
    }
}

const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 60 * 60)
}

/// Nothing expires there by itself. A month, because somebody may have removed it all the same, and pulling an image again once a
/// month costs little.
const UNTIL_REMOVED: Duration = hours(30 * 24);

/// A cache of which nothing is known is taken for the most careful: a HEAD may cost a pull, a week is kept (as Harbor and
/// Distribution do by default), a list may be trimmed, it may be Distribution, and it may be nginx.
pub(super) static GENERIC: Caching = Caching {
    says_origin: false,
    blobs: BlobOrigin::BareEtag,
    head: HeadCost::Pull,
    warm_ttl: hours(168),
    refresh: CacheRefresh::Unknown,
    lists: CacheLists::Trimmed,
    naming: CacheNaming::Rules,
    by_address: true,
};

/// 1.5: imports in the background, what was pulled only; says `X-Azure-Origin: upstream` until it has; a moved tag is noticed
/// after at most 5 minutes.
pub(super) static ACR: Caching = Caching {
    says_origin: true,
    blobs: BlobOrigin::Unsaid,
    head: HeadCost::Nothing,
    warm_ttl: UNTIL_REMOVED,
    refresh: CacheRefresh::Within(Duration::from_secs(5 * 60)),
    lists: CacheLists::Pulled,
    naming: CacheNaming::Rules,
    by_address: false,
};

/// 2.1: a tag is checked against the upstream once in 24 h; all images of a list are pulled. What a HEAD does is not said.
pub(super) static ECR: Caching = Caching {
    says_origin: false,
    blobs: BlobOrigin::Unsaid,
    head: HeadCost::Pull,
    warm_ttl: UNTIL_REMOVED,
    refresh: CacheRefresh::Within(hours(24)),
    lists: CacheLists::Whole,
    naming: CacheNaming::Prefix,
    by_address: false,
};

/// 2.3: a HEAD is answered by a HEAD at the upstream; lists are trimmed; by default what was not pulled for 7 days goes, so an
/// image is pulled again a day before that.
pub(super) static HARBOR: Caching = Caching {
    says_origin: false,
    blobs: BlobOrigin::Unsaid,
    head: HeadCost::Nothing,
    warm_ttl: hours(6 * 24),
    refresh: CacheRefresh::Always,
    lists: CacheLists::Trimmed,
    naming: CacheNaming::Prefix,
    by_address: false,
};

/// 2.2: neither the refresh interval nor what a HEAD does is documented.
pub(super) static ARTIFACT_REGISTRY: Caching = Caching {
    says_origin: false,
    blobs: BlobOrigin::Unsaid,
    head: HeadCost::Pull,
    warm_ttl: UNTIL_REMOVED,
    refresh: CacheRefresh::Unknown,
    lists: CacheLists::Pulled,
    naming: CacheNaming::Prefix,
    by_address: false,
};

/// 2.4: asks its upstream for each tag; keeps what it fetched for 168 h, counted from the fetch. A HEAD of a manifest fetches the
/// manifest, one of a blob the blob.
pub(super) static DISTRIBUTION: Caching = Caching {
    says_origin: false,
    blobs: BlobOrigin::BareEtag,
    head: HeadCost::Pull,
    warm_ttl: hours(168),
    refresh: CacheRefresh::Always,
    lists: CacheLists::Pulled,
    naming: CacheNaming::Same,
    by_address: false,
};
