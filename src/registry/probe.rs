//! Whether a registry would take what is to be put there: an upload is opened and given back, so that nothing is left behind.

use reqwest::Method;

use super::auth::Scopes;
use super::counters::RequestKind;
use super::profiles::Creation;
use super::store::RegistryStore;
use super::transport::Call;
use super::uploads::START;
use crate::Result;
use crate::content::{Charge, Place};

impl RegistryStore {
    /// Opens an upload in `place`, and gives it back. What makes repositories by itself is asked once for each of its projects, what does not, or
    /// is not known, for each repository.
    pub(super) async fn try_upload(&self, place: &Place, charge: &Charge) -> Result<()> {
        let unit = self.unit(place);
        if self.admitted().contains(&unit) {
            return Ok(());
        }
        let scopes = Scopes::push(place.as_str());
        let url = self.transport.host.url(&format!("{place}/blobs/uploads/"));
        let call = Call::new((RequestKind::BlobPut, START, Method::POST), url, place, &scopes, charge);
        let answer = self.transport.send(&call, &mut self.transport.host.patience()).await?;
        let session = self.location(&answer, &call).await?;
        drop(answer);
        self.cancel(session, place, &scopes, charge).await;
        self.admitted().insert(unit);
        Ok(())
    }

    /// What is admitted with `place`: the part of its path that has to exist beforehand.
    fn unit(&self, place: &Place) -> String {
        let path = place.as_str();
        let parts = |n: usize| path.split('/').take(n).collect::<Vec<_>>().join("/");
        let profile = self.transport.host.profile;
        match profile.creation {
            Creation::HarborProject => parts(1),
            Creation::ArtifactRegistry => parts(2),
            Creation::OnPush if profile.name != super::profiles::UNKNOWN.name => parts(1),
            Creation::OnPush | Creation::Ecr | Creation::EcrPublic | Creation::ReadOnly => path.to_owned(),
        }
    }
}
