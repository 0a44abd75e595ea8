//! What the reader of a refusal can do about it: the registries' ways of saying it, and the command that helps.

use super::error_answer::{ErrorAnswer, Hint};
use super::request::RequestTopic;
use crate::Operation;
use crate::config::profiles::{CACHE_REMEDY, Creation};
use crate::name::DOCKER_HUB;

/// What helps against a refusal.
enum Remedy {
    /// Another login.
    LogIn,
    /// Something else, in words.
    Other(String),
}

/// The remedy for a final refusal, where there is one to name.
pub(crate) fn of(topic: &RequestTopic<'_>, refusal: &ErrorAnswer) -> Option<String> {
    match find(topic, refusal)? {
        Remedy::LogIn if topic.host == DOCKER_HUB => Some(format!("{}; {HUB_401}", log_in(topic))),
        Remedy::LogIn => Some(log_in(topic)),
        Remedy::Other(text) => Some(text),
    }
}

/// As [`of`], for a 401 of which the login's own error already says what to do: only what it cannot know.
pub(crate) fn beyond_login(topic: &RequestTopic<'_>, refusal: &ErrorAnswer) -> Option<String> {
    match find(topic, refusal)? {
        Remedy::LogIn => (topic.host == DOCKER_HUB).then(|| HUB_401.to_owned()),
        Remedy::Other(text) => Some(text),
    }
}

fn find(topic: &RequestTopic<'_>, refusal: &ErrorAnswer) -> Option<Remedy> {
    match other_than_login(topic, refusal) {
        None if refusal.status == 401 && refusal.foreign.is_none() => Some(Remedy::LogIn),
        remedy => remedy.map(Remedy::Other),
    }
}

/// The remedy of a refusal that is about more than the login.
fn other_than_login(topic: &RequestTopic<'_>, refusal: &ErrorAnswer) -> Option<String> {
    if refusal.foreign.is_some() {
        // A store behind the registry: nothing here is about our login or our repository.
        return None;
    }
    let says = |code: &str| refusal.codes.iter().any(|found| found == code);
    let text = refusal.message.to_ascii_lowercase();
    let push = topic.operation.is_push();
    let no_project = text.contains("project") && text.contains("not found");
    if push && (says("NAME_UNKNOWN") || no_project || refusal.status == 404 && refusal.codes.is_empty()) {
        return Some(create_repository(topic, no_project));
    }
    if text.contains("source registry for cache rule") && matches!(refusal.status, 401 | 403) {
        // docs/registries.md, "Azure: what a pull does": said by the artifact cache.
        return Some(CACHE_LOGIN.to_owned());
    }
    if text.contains("requested access to pull from source") && text.contains("for cache rule") {
        // Said by the artifact cache (Azure/acr#772).
        return Some(CACHE_RIGHT.to_owned());
    }
    if push && is_said_by_a_cache(&refusal.message) {
        return Some(format!("a cache rule that owns the repository, or a proxy project, refuses pushes: {CACHE_REMEDY}"));
    }
    let table = format!("[registry.\"{}\"]", topic.host);
    match refusal.hint {
        Some(Hint::SpeaksTls) => return Some(format!("it speaks TLS: set `plain_http = false` in {table}")),
        Some(Hint::WantsCertificate) => return Some(format!("set `client_cert` and `client_key` in {table}")),
        None => {}
    }
    match refusal.status {
        405 | 501 if topic.operation == Operation::StartUpload => {
            Some(format!("the registry takes no pushes; if it is a pull-through cache, {CACHE_REMEDY}"))
        }
        424 => Some(CACHE_UPSTREAM.to_owned()),
        403 if push => {
            Some(format!("may `{}` push there? A cache rule that owns the repository, or a quota, refuses pushes too", topic.account))
        }
        403 => Some(format!("may `{}` pull it?", topic.account)),
        429 => Some("the registry limits what may be asked of it: run the same command later, it goes on where it stopped".to_owned()),
        413 if topic.operation == Operation::PutManifest => Some("the registry limits the size of manifests".to_owned()),
        413 => Some("a proxy before the registry limits the size of requests (nginx: `client_max_body_size 0`)".to_owned()),
        400 | 409 | 412 if push && text.contains("immutable") => {
            Some("the tag is immutable at the target: remove it there, or give the image another tag".to_owned())
        }
        _ => None,
    }
}

/// docs/registries.md, "Errors": Docker Hub says 401 for a repository that does not exist.
const HUB_401: &str = "or the repository does not exist: Docker Hub answers both alike";
const CACHE_LOGIN: &str = "it is the cache that its upstream refuses: see the credential set of the cache rule there (`az acr credential-set show`), not larder's";
const CACHE_RIGHT: &str = "the cache may not pull that: see that the credential set or managed identity of its cache rule may read the source (`az acr cache show`), and that the source exists";
const CACHE_UPSTREAM: &str = "the cache's upstream did not answer it: run the same command later; if it stays so, see the health of the cache rule's credentials (`az acr credential-set show`)";

fn log_in(topic: &RequestTopic<'_>) -> String {
    format!(
        "check what larder logs in with at {} (now: {}), in [[credentials]] or by `docker login {}`",
        topic.host, topic.account, topic.host
    )
}

/// How a repository comes to be at a registry that does not make one by itself on a push.
fn create_repository(topic: &RequestTopic<'_>, no_project: bool) -> String {
    let path = topic.repository.map_or("", |repository| repository.as_str());
    let first = path.split('/').next().unwrap_or(path);
    match topic.profile.creation {
        Creation::Ecr => {
            let region = ecr_region(topic.host).unwrap_or("REGION");
            format!("the repository must exist first: aws ecr create-repository --repository-name {path} --region {region}")
        }
        Creation::EcrPublic => {
            // The path begins with the registry's alias, which is no part of the repository's name.
            let name = path.split_once('/').map_or(path, |(_, name)| name);
            format!("the repository must exist first: aws ecr-public create-repository --repository-name {name} --region us-east-1")
        }
        Creation::ArtifactRegistry => {
            let location = topic.host.strip_suffix("-docker.pkg.dev").unwrap_or("LOCATION");
            let repository = path.split('/').nth(1).unwrap_or("REPOSITORY");
            format!(
                "the repository must exist first: gcloud artifacts repositories create {repository} --repository-format=docker --location={location} --project={first}"
            )
        }
        // Harbor is known by its words, too.
        Creation::HarborProject | Creation::OnPush if no_project => format!(
            "create the project `{first}` in Harbor first: curl -u USER -X POST https://{}/api/v2.0/projects -H 'Content-Type: application/json' -d '{{\"project_name\":\"{first}\"}}'",
            topic.host
        ),
        Creation::ReadOnly => format!("nothing is pushed to {}", topic.host),
        Creation::HarborProject | Creation::OnPush => {
            format!("create the repository `{path}` at {} first, if it does not make one by itself", topic.host)
        }
    }
}

/// Whether a refused push is in the words of a pull-through cache: Harbor ("can not push artifact to a proxy project"), Azure ("The cache
/// rule blocks pushes …").
pub(super) fn is_said_by_a_cache(message: &str) -> bool {
    const WORDS: [&str; 5] = ["proxy project", "proxy repository", "proxy cache", "cache rule", "pull-through"];
    let text = message.to_ascii_lowercase();
    WORDS.iter().any(|words| text.contains(words))
}

/// The region of `<account>.dkr.ecr[-fips].<region>.amazonaws.com[.cn]`.
fn ecr_region(host: &str) -> Option<&str> {
    let rest = host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
    let (_, region) = rest.split_once(".dkr.ecr.").or_else(|| rest.split_once(".dkr.ecr-fips."))?;
    Some(region)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Side;
    use crate::config::profiles;
    use crate::content::Repository;
    use jiff::Timestamp;
    use reqwest::header::HeaderMap;

    fn remedy(host: &str, operation: Operation, status: u16, code: &str, message: &str) -> Option<String> {
        let repository = Repository::new("proj/team/app");
        let profile = profiles::recognised(host).unwrap_or(&profiles::UNKNOWN);
        let topic =
            RequestTopic { side: Side::Target, operation, host, profile, account: "ci", repository: Some(&repository), image: "image" };
        let body = format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":\"{message}\"}}]}}");
        let body = if code.is_empty() { message } else { &body };
        of(&topic, &ErrorAnswer::read(status, &HeaderMap::new(), body.as_bytes(), None, Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn a_repository_that_must_exist_is_named_with_its_command() {
        let ecr = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
        let fips = "123456789012.dkr.ecr-fips.us-east-1.amazonaws.com";
        let china = "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn";
        for (host, operation, status, code, message, expected) in [
            (
                ecr,
                Operation::StartUpload,
                404,
                "NAME_UNKNOWN",
                "The repository does not exist",
                "aws ecr create-repository --repository-name proj/team/app --region eu-west-1",
            ),
            (fips, Operation::PutManifest, 404, "NAME_UNKNOWN", "", "--region us-east-1"),
            (china, Operation::MountBlob, 404, "NAME_UNKNOWN", "", "--region cn-north-1"),
            (
                "public.ecr.aws",
                Operation::StartUpload,
                404,
                "NAME_UNKNOWN",
                "",
                "aws ecr-public create-repository --repository-name team/app",
            ),
            (
                "europe-docker.pkg.dev",
                Operation::StartUpload,
                404,
                "NAME_UNKNOWN",
                "",
                "gcloud artifacts repositories create team --repository-format=docker --location=europe --project=proj",
            ),
            ("harbor.corp", Operation::StartUpload, 401, "UNAUTHORIZED", "project proj not found", "create the project `proj` in Harbor"),
            ("harbor.corp", Operation::StartUpload, 404, "NOT_FOUND", "project proj not found", "https://harbor.corp/api/v2.0/projects"),
            ("registry.corp", Operation::StartUpload, 404, "NAME_UNKNOWN", "", "create the repository `proj/team/app`"),
        ] {
            let remedy = remedy(host, operation, status, code, message).unwrap();
            assert!(remedy.contains(expected), "{host}: {remedy}");
        }
    }

    #[test]
    fn other_remedies() {
        for (host, operation, status, code, message, expected) in [
            ("docker.io", Operation::GetManifest, 401, "UNAUTHORIZED", "", Some("or the repository does not exist")),
            ("quay.io", Operation::GetManifest, 401, "UNAUTHORIZED", "", Some("docker login quay.io")),
            ("quay.io", Operation::GetBlob, 403, "DENIED", "", Some("may `ci` pull")),
            ("harbor.corp", Operation::UploadBlob, 403, "DENIED", "quota", Some("may `ci` push")),
            ("harbor.corp", Operation::UploadBlob, 413, "", "", Some("client_max_body_size")),
            ("harbor.corp", Operation::PutManifest, 412, "PRECONDITION", "configured as immutable", Some("immutable at the target")),
            ("quay.io", Operation::GetManifest, 404, "MANIFEST_UNKNOWN", "", None),
            (
                "contoso.azurecr.io",
                Operation::GetManifest,
                401,
                "UNAUTHORIZED",
                "authentication required with source registry for cache rule 'docker-io'",
                Some("credential set of the cache rule"),
            ),
            (
                "contoso.azurecr.io",
                Operation::GetManifest,
                401,
                "UNAUTHORIZED",
                "requested access to pull from source 'docker.io/library/alpine' for cache rule 'hub' has been denied",
                Some("managed identity of its cache rule may read the source"),
            ),
            ("contoso.azurecr.io", Operation::GetManifest, 424, "", "", Some("the cache's upstream did not answer it")),
            (
                "harbor.corp",
                Operation::StartUpload,
                403,
                "DENIED",
                "can not push artifact to a proxy project: hub",
                Some("delivery = \"warm\""),
            ),
            ("cache.corp", Operation::StartUpload, 405, "UNSUPPORTED", "The operation is unsupported.", Some("writable_cache = true")),
            ("quay.io", Operation::ListTags, 404, "NAME_UNKNOWN", "", None),
        ] {
            let remedy = remedy(host, operation, status, code, message);
            match expected {
                Some(expected) => assert!(remedy.as_ref().is_some_and(|text| text.contains(expected)), "{host} {operation:?}: {remedy:?}"),
                None => assert_eq!(remedy, None, "{host} {operation:?}"),
            }
        }
    }
}
