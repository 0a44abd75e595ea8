//! stub
use crate::{config::*, content::*, name::*, report::*, *};
use async_trait::async_trait;
use std::sync::Arc;
pub(crate) fn install_crypto() {}
pub struct Registries;
impl Registries {
    pub fn new(_: &Config, _: Option<usize>) -> Self {
        Registries
    }
    pub fn store(&self, _: Side, _: &str, _: Arc<Account>) -> Result<Arc<RegistryStore>> {
        Ok(Arc::new(RegistryStore))
    }
    pub fn rows(&self) -> Vec<RegistryRow> {
        vec![]
    }
}
pub struct RegistryStore;
#[async_trait]
impl Source for RegistryStore {
    async fn resolve(&self, _: &Place, _: &Reference, _: &Charge) -> Result<Option<Descriptor>> {
        Ok(None)
    }
    async fn tags(&self, _: &Place, _: &Charge) -> Result<Vec<String>> {
        Ok(vec![])
    }
    async fn manifest(&self, _: &Place, _: &Digest, _: &Charge) -> Result<Option<Manifest>> {
        Ok(None)
    }
    async fn blob(&self, _: &Place, _: &Descriptor, _: u64, _: &Charge) -> Result<Option<BlobStream>> {
        Ok(None)
    }
}
#[async_trait]
impl Sink for RegistryStore {
    async fn published(&self, _: &Place, _: &Reference, _: &Charge) -> Result<Option<Descriptor>> {
        Ok(None)
    }
    async fn holds_blob(&self, _: &Place, _: &Descriptor, _: &Charge) -> Result<Presence> {
        Ok(Presence::Absent)
    }
    async fn holds_manifest(&self, _: &Place, _: &Descriptor, _: &Charge) -> Result<Presence> {
        Ok(Presence::Absent)
    }
    async fn link(&self, _: &Place, _: &Place, _: &Descriptor, _: &Charge) -> Result<bool> {
        Ok(false)
    }
    async fn write_blob(&self, _: &Place, _: &Descriptor, _: &dyn OpenBlob, _: &Charge) -> Result<()> {
        Ok(())
    }
    async fn put_manifest(&self, _: &Place, _: &Manifest, _: &Charge) -> Result<()> {
        Ok(())
    }
    async fn publish(&self, _: &Publication, _: &Charge) -> Result<()> {
        Ok(())
    }
}
