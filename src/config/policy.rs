//! `[[rule]]`: what of an image is delivered, and how a cache is warmed.

use toml::{Spanned, Value};

use super::check::ConfigChecker;
use super::{limits, raw};
use crate::content::{ForeignLayers, IndexMode, PlatformFilter, Policy, Recheck, Referrers};
use crate::rules::{Delivery, WarmBlobs, WarmSettings};

impl ConfigChecker<'_> {
    /// What of an image is delivered; `None` if something of it is wrong, which is reported.
    pub(super) fn policy(&mut self, rule: &raw::RawRule, what: &str) -> Option<Policy> {
        let platforms = self.value(rule.platforms.as_ref(), &format!("{what}platforms: "), |texts| {
            texts.iter().map(|text| PlatformFilter::parse(text)).collect::<Result<Vec<_>, _>>()
        });
        let index = self.value(rule.index.as_ref(), what, |text| match text.as_str() {
            "rewrite" => Ok(IndexMode::Rewrite),
            "sparse" => Ok(IndexMode::Sparse),
            other => Err(format!("index is \"rewrite\" or \"sparse\", not \"{other}\"")),
        });
        let foreign_layers = self.value(rule.foreign_layers.as_ref(), what, |text| match text.as_str() {
            "skip" => Ok(ForeignLayers::Skip),
            "fetch" => Ok(ForeignLayers::Fetch),
            other => Err(format!("foreign_layers is \"skip\" or \"fetch\", not \"{other}\"")),
        });
        let referrers = self.value(rule.referrers.as_ref(), what, referrers);
        let referrers_recheck = self.value(rule.referrers_recheck.as_ref(), &format!("{what}referrers_recheck: "), |text| recheck(text));
        Some(Policy {
            platforms: platforms?,
            platforms_required: rule.platforms_required,
            index: index?,
            referrers: referrers?,
            referrers_recheck: referrers_recheck?,
            foreign_layers: foreign_layers?,
        })
    }

    /// How a cache is warmed; keys of the one delivery are errors under the other.
    pub(super) fn warm(&mut self, rule: &raw::RawRule, delivery: Option<Delivery>, what: &str) -> Option<WarmSettings> {
        let blobs = self.value(rule.blobs.as_ref(), what, |text| match text.as_str() {
            "get" => Ok(WarmBlobs::Get),
            "head" => Ok(WarmBlobs::Head),
            "none" => Ok(WarmBlobs::None),
            other => Err(format!("blobs is \"get\", \"head\" or \"none\", not \"{other}\"")),
        });
        let ttl = self.value(rule.warm_ttl.as_ref(), &format!("{what}warm_ttl: "), |text| limits::duration(text).map(Some));
        if delivery == Some(Delivery::Push) {
            self.only_warm(rule.blobs.as_ref(), "blobs", what);
            self.only_warm(rule.upstream_check.as_ref(), "upstream_check", what);
            self.only_warm(rule.warm_ttl.as_ref(), "warm_ttl", what);
        }
        if delivery == Some(Delivery::Warm)
            && let Some(index) = &rule.index
        {
            self.error(
                index,
                format!("{what}index is for delivery = \"push\": a cache keeps the upstream's index, and larder pulls only `platforms`"),
            );
        }
        let upstream_check = rule.upstream_check.as_ref().is_none_or(|check| *check.get_ref());
        Some(WarmSettings { blobs: blobs?, upstream_check, ttl: ttl? })
    }

    fn only_warm<T>(&mut self, value: Option<&Spanned<T>>, key: &str, what: &str) {
        if let Some(value) = value {
            self.error(value, format!("{what}{key} is for delivery = \"warm\""));
        }
    }

    /// An optional value as `read` reads it, or the default; `None` if it is wrong, which is reported.
    fn value<T, V: Default>(&mut self, value: Option<&Spanned<T>>, what: &str, read: impl Fn(&T) -> Result<V, String>) -> Option<V> {
        match value {
            None => Some(V::default()),
            Some(value) => self.take(Some(value), what, read),
        }
    }
}

fn referrers(value: &Value) -> Result<Referrers, String> {
    let wrong = || "referrers is true, false, or a list of artifact types".to_owned();
    match value {
        Value::Boolean(true) => Ok(Referrers::All),
        Value::Boolean(false) => Ok(Referrers::No),
        Value::Array(types) if !types.is_empty() => {
            let types: Option<Vec<String>> =
                types.iter().map(|kind| kind.as_str().filter(|kind| !kind.is_empty()).map(str::to_owned)).collect();
            types.map(Referrers::Types).ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

fn recheck(text: &str) -> Result<Recheck, String> {
    match text {
        "always" => Ok(Recheck::Always),
        "never" => Ok(Recheck::Never),
        text => limits::duration(text).map(Recheck::For).map_err(|why| format!("{why}, or `always`, or `never`")),
    }
}
