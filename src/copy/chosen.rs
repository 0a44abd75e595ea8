//! Which children of an index are wanted, where the index itself stays as it is.

use std::collections::HashSet;

use crate::content::{Descriptor, Digest, Policy};

/// BuildKit's mark on attestations (registries.md 5), and on which image they are about.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const ATTESTATION: &str = "attestation-manifest";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// Those of the platforms that `policy` names, with the attestations about them; what runs nowhere else is kept too.
pub(crate) fn chosen(policy: &Policy, children: Vec<Descriptor>) -> Vec<Descriptor> {
    if policy.platforms.is_empty() {
        return children;
    }
    let is_attestation = |child: &Descriptor| child.annotations.get(REFERENCE_TYPE).is_some_and(|kind| kind == ATTESTATION);
    let wanted = |child: &Descriptor| match &child.platform {
        Some(platform) if platform.os != "unknown" => policy.platforms.iter().any(|filter| filter.matches(platform)),
        _ => !is_attestation(child),
    };
    let kept: HashSet<Digest> = children.iter().filter(|child| wanted(child)).map(|child| child.digest.clone()).collect();
    let about_kept = |child: &Descriptor| {
        let about = child.annotations.get(REFERENCE_DIGEST).and_then(|digest| Digest::parse(digest).ok());
        is_attestation(child) && about.is_some_and(|digest| kept.contains(&digest))
    };
    children.into_iter().filter(|child| kept.contains(&child.digest) || about_kept(child)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Platform, PlatformFilter};

    fn child(n: u8, platform: Option<(&str, &str)>, about: Option<&Descriptor>) -> Descriptor {
        let mut child = Descriptor::new("m", Digest::sha256(&[n]), 1);
        child.platform = platform.map(|(os, architecture)| Platform {
            os: os.into(),
            architecture: architecture.into(),
            variant: None,
            os_version: None,
        });
        if let Some(about) = about {
            child.annotations.insert(REFERENCE_TYPE.into(), ATTESTATION.into());
            child.annotations.insert(REFERENCE_DIGEST.into(), about.digest.to_string());
        }
        child
    }

    #[test]
    fn attestations_follow_their_images_and_what_has_no_platform_stays() {
        let (amd, arm) = (child(1, Some(("linux", "amd64")), None), child(2, Some(("linux", "arm64")), None));
        let unknown = Some(("unknown", "unknown"));
        let all = vec![amd.clone(), arm.clone(), child(3, unknown, Some(&amd)), child(4, unknown, Some(&arm)), child(5, None, None)];
        let policy = Policy { platforms: vec![PlatformFilter::parse("linux/amd64").unwrap()], ..Policy::default() };
        let kept: Vec<Digest> = chosen(&policy, all.clone()).into_iter().map(|child| child.digest).collect();
        assert_eq!(kept, [&all[0], &all[2], &all[4]].map(|child| child.digest.clone()));
        assert_eq!(chosen(&Policy::default(), all.clone()), all);
    }
}
