//! The second host: storage behind signed links, as S3 and Azure's blob storage are.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use larder::content::Digest;

use super::blobs::send;
use super::content::Content;
use super::reply::{Reply, reply, with};
use super::service::{Exchange, Registry};

struct Link {
    digest: Digest,
    content: Content,
    uses: Option<u32>,
}

/// The links that were made.
#[derive(Default)]
pub(super) struct Links(Mutex<HashMap<String, Link>>);

impl Links {
    /// The path and query of a new link.
    pub(super) fn make(&self, digest: &Digest, content: Content, uses: Option<u32>) -> String {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let signature = format!("signed-{}", links.len());
        links.insert(signature.clone(), Link { digest: digest.clone(), content, uses });
        format!("/data/{digest}?sig={signature}")
    }

    /// What a link leads to, used once more; `None` if it has expired or never was.
    fn follow(&self, signature: &str) -> Option<(Digest, Content)> {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.get_mut(signature)?;
        if let Some(uses) = &mut link.uses {
            *uses = uses.checked_sub(1)?;
        }
        Some((link.digest.clone(), link.content.clone()))
    }
}

pub(super) fn get(registry: &Registry, exchange: &Exchange) -> Reply {
    if exchange.header("authorization").is_some() {
        return storage_error(400, "InvalidArgument", "Only one auth mechanism allowed");
    }
    match exchange.route.value("sig").and_then(|signature| registry.links.follow(signature)) {
        Some((digest, content)) => send(exchange, &digest, &content),
        None => storage_error(403, "AccessDenied", "Request has expired"),
    }
}

/// Storage speaks XML.
fn storage_error(status: u16, code: &str, message: &str) -> Reply {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>");
    with(reply(status, body), "content-type", "application/xml")
}
