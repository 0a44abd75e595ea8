//! Docker's credential helpers: `docker-credential-NAME get`, the server on standard input, JSON on standard output
//! (docker-credential-helpers, README "Development").

use std::path::Path;

use serde::Deserialize;

use super::login::{Login, TOKEN_NAME, TOKEN_USER};
use super::{Environment, command};

/// How a helper says that it has nothing (docker-credential-helpers, credentials/error.go).
const NOT_FOUND: &str = "credentials not found in native keychain";

/// No `Debug`: it holds the secret.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// The user's name (for reports) and login that the helper `name` has for `server`. The error names the helper.
pub(super) async fn ask(name: &str, server: &str, environment: &Environment) -> Result<Option<(String, Login)>, String> {
    let program = format!("docker-credential-{name}");
    let output = command::run(Path::new(&program), &["get".to_owned()], Some(server), environment)
        .await
        .map_err(|why| format!("credential helper {program} {why}"))?;
    if let Some(why) = output.failure() {
        // The protocol has this on standard output; nothing else of that is ever looked at or shown.
        return match output.text() {
            Some(text) if text.trim() == NOT_FOUND => Ok(None),
            _ => Err(format!("credential helper {program} failed for {server} ({why})")),
        };
    }
    let text = output.text().unwrap_or_default();
    // The parser's message could repeat a part of the secret.
    let answer: HelperAnswer =
        serde_json::from_str(&text).map_err(|_| format!("credential helper {program} did not answer with a credential"))?;
    if answer.username == TOKEN_USER {
        return Ok(Some((TOKEN_NAME.to_owned(), Login::IdentityToken { token: answer.secret.into() })));
    }
    Ok(Some((answer.username.clone(), Login::Basic { username: answer.username, password: answer.secret.into() })))
}
