//! `larder verify --evidence`.

use std::path::Path;

use crate::bundle::evidence::{Evidence, check};
use crate::cli::exit::{Exit, UsageError};
use crate::cli::inventory::target_at;
use crate::cli::printer::Printer;
use crate::config::{Config, TargetConfig};
use crate::content::Repository;
use crate::internal::blocking;
use crate::sync::{UpstreamOptions, Upstreams};
use crate::{Error, Kind, Operation};

/// Checks the digest of the evidence, and that the target (`target`, else the one that the evidence names) holds every row.
pub(super) async fn verify(
    file: Option<&Path>,
    evidence: &Path,
    target: Option<&str>,
    concurrency: Option<usize>,
    printer: &Printer,
) -> Result<Exit, UsageError> {
    let config = Config::load(file)?;
    let path = evidence.to_owned();
    let evidence = blocking(Operation::ReadEvidence, move || Evidence::read(&path)).await;
    let evidence =
        evidence.map_err(|error| if error.kind() == Kind::Damaged { UsageError::failed(error) } else { UsageError::usage(error) })?;
    let digest = evidence.digest().map_err(UsageError::failed)?;
    let Some(name) = target.or_else(|| evidence.rows().first().map(|row| row.target.as_str())) else {
        printer.say(&format!("the evidence is intact ({digest}), and has no rows"));
        return Ok(Exit::Done);
    };
    let target = target_at(name).map_err(|why| UsageError::usage(Error::local(Operation::ReadTarget, why)))?;
    let supply = Upstreams::new(&config, &UpstreamOptions { concurrency, ..UpstreamOptions::default() }).map_err(UsageError::failed)?;
    let store = supply.target(&target, false).await.map_err(UsageError::failed)?;
    let repository = |repository: &str| match &target {
        TargetConfig::Registry { prefix, .. } if !prefix.is_empty() => Repository::new(format!("{prefix}/{repository}")),
        _ => Repository::new(repository),
    };
    let differences = check(&evidence, &store.ends, repository).await.map_err(UsageError::failed)?;
    for difference in &differences {
        let row = &difference.row;
        let kind = serde_json::to_value(row.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default();
        let name = if row.reference.is_empty() { row.repository.clone() } else { format!("{}:{}", row.repository, row.reference) };
        printer.data(&(crate::error::printable(&format!("{kind} {name} {}: {}", row.digest, difference.why)) + "\n"));
    }
    printer.say(&format!("{} rows of evidence ({digest}) checked against {target}: {} differ", evidence.rows().len(), differences.len()));
    Ok(if differences.is_empty() { Exit::Done } else { Exit::Failed })
}
