//! Credentials: whom a registry sees, and how that is found out.
//!
//! - [`CredentialSet`]: what `[[credentials]]` says; it holds no secret, only where one is.
//! - [`CredentialStore`]: the lookup order. The rule's set; any set for that login server; docker's `config.json`; podman's
//!   `auth.json`; anonymous.
//! - [`LoginAccount`]: one credential. It reads its secret at first need, once for all who wait, and again after a refusal.
//!
//! The files are searched here, and the crate `docker_credential` only decodes the entry that was found (base64, identity
//! tokens). Its own search takes the exact key and nothing else (`quay.io/org/app` does not find `quay.io/org`), runs helpers
//! blocking and with their output in its errors, and gives up on podman where `XDG_RUNTIME_DIR` is not set.
//!
//! No secret stands in a `Debug`, `Display` or error of anything here.

mod account;
mod command;
mod environment;
mod files;
mod helper;
mod login;
mod set;
mod store;
#[cfg(test)]
mod tests;

pub use account::LoginAccount;
pub use environment::Environment;
pub use login::Login;
pub(crate) use login::TOKEN_USER;
pub use set::CredentialSet;
pub(super) use set::ValueSource;
pub use store::CredentialStore;
