//! Running a program that knows a secret.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::Environment;

/// How long a command may take: enough to touch a hardware key or to answer a prompt, short enough that a hung one does not
/// hold a night's run. Chosen, not measured.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a program printed. No `Debug`: it holds the secret.
pub(super) struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Output {
    /// How it failed, if it did: the status and the first line it wrote to standard error.
    pub(super) fn failure(&self) -> Option<String> {
        if self.status.success() {
            return None;
        }
        let stderr = String::from_utf8_lossy(&self.stderr);
        Some(match stderr.lines().map(str::trim).find(|line| !line.is_empty()) {
            Some(line) => format!("{}: {line}", self.status),
            None => self.status.to_string(),
        })
    }

    /// What it printed, if that is UTF-8.
    pub(super) fn text(&self) -> Option<String> {
        std::str::from_utf8(&self.stdout).ok().map(str::to_owned)
    }
}

/// Runs `program` in `environment` with `input` on its standard input. The error follows the program's name: `vault was not
/// found`.
pub(super) async fn run(program: &Path, arguments: &[String], input: Option<&str>, environment: &Environment) -> Result<Output, String> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(&environment.vars);
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() }).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "was not found".to_owned(),
        _ => format!("could not be started: {error}"),
    })?;
    let stdin = child.stdin.take();
    let work = async move {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            // A program that does not read its input closes the pipe, which is its right.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(output)) => Ok(Output { status: output.status, stdout: output.stdout, stderr: output.stderr }),
        Ok(Err(error)) => Err(format!("could not be run: {error}")),
        Err(_) => Err(format!("did not end within {} s", PATIENCE.as_secs())),
    }
}
