//! Foreign layers: read where their descriptors' `urls` lead (image-spec descriptor.md "Properties"), as a redirect of the registry
//! would be: only where it may send us, without a login, checked for size on the way (and for digest by who takes the bytes). The
//! urls are tried in their order, each with a retry budget of its own; what one has brought is gone on with at the next. The
//! registry itself comes last: some keep such layers although they need not.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use url::Url;

use super::read::BlobReader;
use crate::content::{BlobStream, Descriptor, Repository, RequestContext};
use crate::registry::address::shown;
use crate::registry::request::PermitRequest;
use crate::registry::store::RegistryStore;
use crate::registry::transport::Transport;
use crate::{Error, Kind, Operation, Result, Side};

/// So many urls are tried: real descriptors have one or two, and a hostile one may not keep larder busy for a night.
const MOST_URLS: usize = 8;

impl RegistryStore {
    /// The bytes of a foreign layer from `offset` on.
    pub(super) async fn read_foreign(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        offset: u64,
        context: &RequestContext,
    ) -> Result<BlobStream> {
        let mut fetch = ForeignFetch {
            reading: self.reading(repository, blob, offset, context),
            vendors: blob.urls.iter().take(MOST_URLS).cloned().collect(),
            registry: Some(self.blob_url(repository, &blob.digest)),
            failed: vec![],
        };
        fetch.open(PermitRequest::Fresh).await?;
        let chunks = stream::try_unfold(fetch, |mut fetch| async move { Ok(fetch.next().await?.map(|chunk| (chunk, fetch))) });
        Ok(chunks.boxed())
    }
}

/// A foreign layer that is being read.
struct ForeignFetch {
    /// At the place that is tried now.
    reading: BlobReader,
    /// The urls that have not been tried.
    vendors: VecDeque<String>,
    /// The registry, unless it has been tried.
    registry: Option<Url>,
    /// What became of those that have.
    failed: Vec<String>,
}

impl ForeignFetch {
    /// The next piece, from any of the addresses.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.reading.next().await {
                Ok(chunk) => return Ok(chunk),
                Err(error) => {
                    self.gave_up(&error)?;
                    // The task that waits for these bytes holds permits, perhaps of this very host.
                    self.open(PermitRequest::Continued).await?;
                }
            }
        }
    }

    /// Turns to the next place that answers.
    async fn open(&mut self, claim: PermitRequest) -> Result<()> {
        loop {
            let (url, stranger) = match self.vendors.pop_front() {
                Some(text) => match external_url(&self.reading.transport, &text).await {
                    Ok(url) => (url, true),
                    Err(why) => {
                        self.failed.push(why);
                        continue;
                    }
                },
                None => match self.registry.take() {
                    Some(url) => (url, false),
                    None => return Err(self.nowhere()),
                },
            };
            self.reading.turn_to(url, stranger);
            match self.reading.open(claim).await {
                Ok(()) => return Ok(()),
                Err(error) => self.gave_up(&error)?,
            }
        }
    }

    /// Notes why the present place is left.
    ///
    /// # Errors
    /// An error that ends it everywhere: the registry itself pauses for too long.
    fn gave_up(&mut self, error: &Error) -> Result<()> {
        if matches!(error.kind(), Kind::Deferred | Kind::Cancelled) {
            return Err(error.clone());
        }
        self.failed.push(format!("`{}`: {}", shown(&self.reading.url), error.message()));
        Ok(())
    }

    fn nowhere(&self) -> Error {
        let digest = &self.reading.blob.digest;
        let message = format!("could not download foreign layer {} from any of its URLs: {}", digest.short(), self.failed.join("; "));
        Error::new(Side::Upstream, Operation::GetForeignLayer, Kind::NotFound, message).subject(&*self.reading.context.image)
    }
}

/// The address that a descriptor names, if the registry may send us there.
async fn external_url(transport: &Transport, text: &str) -> Result<Url, String> {
    // Not relative to anything: a url of a descriptor is whole.
    let whole = Url::parse(text).map_err(|_| format!("`{text}` is no address"))?;
    let url = transport.host.endpoint.resolve(&whole, text)?;
    transport.allowed(&url).await.map(|()| url)
}
