//! Writes the rules in the formats of other systems: commands that make the target a cache, and files that make
//! container runtimes pull from the target instead of the upstream.
//!
//! What a format cannot express is a comment in its file, and in [`Exported::unsaid`]. Files contain no secret: of
//! credential sets only the names are known here.

mod az;
#[cfg(test)]
mod client_tests;
mod containerd;
mod ecr;
mod k3s;
mod mirror;
mod openshift;
mod podman;
mod shell;
#[cfg(test)]
mod tests;

use std::fmt;

use super::{CacheRule, Delivery, Pattern, RuleSet, SourcePattern};

/// A format that rules can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `az acr cache create` and `az acr credential-set create`.
    Az,
    /// `aws ecr create-pull-through-cache-rule`.
    Ecr,
    /// A tree of `hosts.toml` (docs/registries.md, "containerd: hosts.toml").
    Containerd,
    /// `registries.conf`, version 2 (docs/registries.md, "podman: registries.conf").
    Podman,
    /// `registries.yaml` of k3s and RKE2.
    K3s,
    /// `ImageDigestMirrorSet` and `ImageTagMirrorSet`.
    Openshift,
}

impl Format {
    /// Its name on the command line.
    fn name(self) -> &'static str {
        match self {
            Format::Az => "az",
            Format::Ecr => "ecr",
            Format::Containerd => "containerd",
            Format::Podman => "podman",
            Format::K3s => "k3s",
            Format::Openshift => "openshift",
        }
    }
}

/// The rules, and facts from outside of them.
pub struct ExportContext<'a> {
    /// The rules.
    pub rules: &'a RuleSet,
    /// The target's host.
    pub host: &'a str,
    /// The prefix of every repository at the target; empty for none.
    pub prefix: &'a str,
    /// Whether the target is reached without TLS.
    pub plain_http: bool,
    /// Whether the target's certificate is not verified.
    pub insecure: bool,
    /// The file of the target's certificate authority, if the configuration names one.
    pub ca: Option<&'a str>,
    /// The file of an upstream's certificate authority, if the configuration names one.
    pub upstream_ca: &'a dyn Fn(&str) -> Option<String>,
    /// Whether clients may ask the upstream for images that the target does not have.
    pub fallback: bool,
    /// The credential set of a source host whose rule names none.
    pub credentials: &'a dyn Fn(&str) -> Option<String>,
    /// The address of an upstream's API: scheme and host.
    pub endpoint: &'a dyn Fn(&str) -> String,
}

impl fmt::Debug for ExportContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("host", &self.host).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl ExportContext<'_> {
    /// A rule's target as a repository of the registry.
    fn full_target(&self, rule: &CacheRule) -> Pattern {
        rule.target.below(self.prefix)
    }

    /// The credential set a rule's source is read with.
    fn set_of(&self, rule: &CacheRule) -> Option<String> {
        rule.credentials.clone().or_else(|| (self.credentials)(&rule.source.host))
    }

    /// `https://contoso.azurecr.io`
    fn url(&self) -> String {
        format!("{}://{}", if self.plain_http { "http" } else { "https" }, self.host)
    }
}

/// One file of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedFile {
    /// Its path, below the folder that the format's own tool reads.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// The result of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exported {
    /// The files; exactly one, except for formats with a folder.
    pub files: Vec<ExportedFile>,
    /// What the format cannot express, and what its user has to do, a line each. The files have the same as comments.
    pub unsaid: Vec<String>,
}

impl Format {
    /// Whether the format is for clients that pull, so that `--no-fallback` applies.
    pub fn is_for_clients(self) -> bool {
        !matches!(self, Format::Az | Format::Ecr)
    }
}

/// Writes the rules in `format`.
pub fn export(format: Format, view: &ExportContext<'_>) -> Exported {
    match format {
        Format::Az => az::write(view),
        Format::Ecr => ecr::write(view),
        Format::Containerd => containerd::write(view),
        Format::Podman => podman::write(view),
        Format::K3s => k3s::write(view),
        Format::Openshift => openshift::write(view),
    }
}

/// The first lines of a file, in a format whose comments begin with `#`.
fn head(format: Format, unsaid: &[String]) -> String {
    let mut out = format!("# Written by `larder rules export --format {}`.\n", format.name());
    if !unsaid.is_empty() {
        out.push_str("#\n# What it cannot say, or what is left to you:\n");
        unsaid.iter().for_each(|line| out.push_str(&format!("# - {line}\n")));
    }
    out
}

/// One file and what it cannot express.
fn single(format: Format, path: &str, body: &str, unsaid: Vec<String>) -> Exported {
    let text = format!("{}{body}", head(format, &unsaid));
    Exported { files: vec![ExportedFile { path: path.to_owned(), text }], unsaid }
}

/// The rules whose repositories a cache rule would close to larder's own pushes.
fn pushed(rules: &RuleSet) -> Option<String> {
    let pushed: Vec<String> =
        rules.rules().iter().filter(|rule| rule.delivery == Delivery::Push).map(|rule| format!("\"{}\"", rule.name)).collect();
    (!pushed.is_empty()).then(|| {
        format!("a cache refuses pushes into its rules' repositories: set delivery = \"warm\" once these exist for {}", pushed.join(", "))
    })
}
