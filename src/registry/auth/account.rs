//! The login in use: read once, renewed when refused, and what is known of its worth.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::login::{Login, Logins};
use crate::error::Result;

/// A login that was just renewed and is refused again will not get better by asking again. One that worked for longer than
/// this has run out in the meantime (ECR's passwords live 12 h, short-lived tokens of clouds 15 min at least), and renewing it is right.
const BETWEEN_RENEWALS: Duration = Duration::from_secs(5 * 60);

/// One login in use.
#[derive(Debug)]
pub(super) struct CurrentLogin {
    pub(super) login: Login,
    /// Whether the token server, or the registry itself, has accepted it.
    proven: AtomicBool,
}

impl CurrentLogin {
    pub(super) fn proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }
    pub(super) fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }
}

/// The account of one registry.
pub(super) struct RegistryAccount {
    logins: Arc<dyn Logins>,
    // Held across `await`: secrets are read by one, while the others wait for the answer.
    current: Mutex<Current>,
    anonymous: AtomicBool,
}

#[derive(Default)]
struct Current {
    /// What reading it gave. A failure is kept too: a broken helper is not run once for every image.
    read: Option<Result<Arc<CurrentLogin>>>,
    renewed: Option<Instant>,
}

impl RegistryAccount {
    pub(super) fn new(logins: Arc<dyn Logins>) -> Self {
        RegistryAccount { logins, current: Mutex::default(), anonymous: AtomicBool::new(false) }
    }

    pub(super) fn name(&self) -> &str {
        self.logins.name()
    }

    /// The login in use, read at the first call.
    pub(super) async fn login(&self) -> Result<Arc<CurrentLogin>> {
        let mut current = self.current.lock().await;
        if let Some(read) = &current.read {
            return read.clone();
        }
        let read = self.logins.login().await.map(|login| self.hold(login));
        current.read = Some(read.clone());
        read
    }

    /// Another login than `refused`; `None` if there is none. Later callers get the same one.
    pub(super) async fn renew(&self, refused: &Arc<CurrentLogin>) -> Result<Option<Arc<CurrentLogin>>> {
        let mut current = self.current.lock().await;
        if let Some(Ok(in_use)) = &current.read
            && !Arc::ptr_eq(in_use, refused)
        {
            return Ok(Some(Arc::clone(in_use)));
        }
        if current.renewed.is_some_and(|at| at.elapsed() < BETWEEN_RENEWALS) {
            return Ok(None);
        }
        current.renewed = Some(Instant::now());
        let Some(login) = self.logins.renew(&refused.login).await? else { return Ok(None) };
        let renewed = self.hold(login);
        current.read = Some(Ok(Arc::clone(&renewed)));
        Ok(Some(renewed))
    }

    /// Whether the login in use is anonymous. It has been read.
    pub(super) fn is_anonymous(&self) -> bool {
        self.anonymous.load(Ordering::Relaxed)
    }

    fn hold(&self, login: Login) -> Arc<CurrentLogin> {
        self.anonymous.store(matches!(login, Login::Anonymous), Ordering::Relaxed);
        Arc::new(CurrentLogin { login, proven: AtomicBool::new(false) })
    }
}
