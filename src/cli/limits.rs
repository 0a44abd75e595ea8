//! `larder limits`: the pulls that each upstream has left, and for which account.

// These texts are the program's help, where `[...]` and `<...>` are not links and tags.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::exit::{Exit, UsageError};
use super::options::OutputFormat;
use super::printer::Printer;
use super::text::{duration, moment_of};
use super::{inputs, state};
use crate::config::Config;
use crate::limits::{AccountId, AccountStatus};
use crate::name;
use crate::sync::{RuledEntry, SyncOptions, UpstreamOptions};
use crate::{Error, Operation, Result};

#[derive(Debug, Args)]
pub(super) struct LimitsArgs {
    /// Registries to ask. Default: all upstreams of the rules and lists
    #[arg(value_name = "REGISTRY")]
    pub(super) registries: Vec<String>,
    /// Format of the answer
    #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
    pub(super) format: OutputFormat,
    /// Where runs keep what they share: a folder, or s3://, az:// or gs://BUCKET/PREFIX. Default: `[state] url` in the configuration,
    /// else $XDG_STATE_HOME/larder, else ~/.local/state/larder; `none` keeps nothing
    #[arg(long, value_name = "DIR|URL")]
    pub(super) state: Option<PathBuf>,
}

/// One account's row (`docs/limits.md`).
#[derive(Debug, Serialize)]
struct LimitsRow {
    host: String,
    account: Option<String>,
    source: Option<String>,
    limit: Option<u64>,
    remaining: Option<u64>,
    window_seconds: Option<u64>,
    closes: Option<String>,
    unlimited: bool,
    error: Option<String>,
}

pub(super) async fn run(file: Option<&Path>, args: LimitsArgs, printer: &Printer) -> Result<Exit, UsageError> {
    let config = Config::load(file)?;
    let known = images(&config)?;
    let hosts = hosts(&args, &config, &known)?;
    let supply = state::supply(&config, args.state.as_deref(), UpstreamOptions::default(), printer).await?;
    let asked = hosts.iter().map(|host| async { row(host, supply.look(host, known.get(host)).await) });
    let rows: Vec<LimitsRow> = futures_util::future::join_all(asked).await;
    match args.format {
        OutputFormat::Table => printer.data(&rows.iter().map(|row| line(row, printer.is_terminal())).collect::<String>()),
        OutputFormat::Json => {
            let json = serde_json::json!({"version": 1, "accounts": rows});
            printer.data(&(serde_json::to_string_pretty(&json).unwrap_or_default() + "\n"));
        }
    }
    let failed = rows.iter().filter_map(|row| row.error.as_deref());
    let failures = failed.inspect(|error| printer.fail(error, &serde_json::json!({}))).count();
    Ok(if failures > 0 { Exit::Failed } else { Exit::Done })
}

/// For each upstream, an image of the lists to ask about: a HEAD of it returns the limit's headers.
fn images(config: &Config) -> Result<BTreeMap<String, RuledEntry>, UsageError> {
    let options = SyncOptions { unmatched: config.default_unmatched(), ..SyncOptions::default() };
    let mut known = BTreeMap::new();
    for entry in inputs::configured(config)?.into_iter().flat_map(|list| list.entries) {
        let host = entry.source.host.clone();
        if !known.contains_key(&host)
            && let Ok(item) = RuledEntry::resolve(entry, 0, &config.rules, &options, &config.target)
            && item.probe().is_some()
        {
            known.insert(host, item);
        }
    }
    Ok(known)
}

/// The registries of the command line, else those of rules and lists.
fn hosts(args: &LimitsArgs, config: &Config, known: &BTreeMap<String, RuledEntry>) -> Result<Vec<String>, UsageError> {
    let wrong = |why: String| UsageError::usage(Error::local(Operation::ReadRegistry, why));
    let mut hosts: Vec<String> = if args.registries.is_empty() {
        let rules = config.rules.rules().iter().map(|rule| rule.source.host.clone());
        rules.chain(known.keys().cloned()).collect()
    } else {
        args.registries.iter().map(|host| name::normal_host(host).map_err(wrong)).collect::<Result<_, _>>()?
    };
    hosts.sort();
    hosts.dedup();
    if hosts.is_empty() {
        return Err(wrong("no registry is given, and neither rules nor lists name one".to_owned()));
    }
    Ok(hosts)
}

fn row(host: &str, answer: Result<(AccountId, AccountStatus)>) -> LimitsRow {
    let empty = LimitsRow {
        host: host.to_owned(),
        account: None,
        source: None,
        limit: None,
        remaining: None,
        window_seconds: None,
        closes: None,
        unlimited: false,
        error: None,
    };
    match answer {
        Ok((account, status)) => LimitsRow {
            account: Some(account.name),
            source: status.source,
            limit: status.limit,
            remaining: status.told.or(status.remaining),
            window_seconds: status.window.map(|window| window.as_secs()),
            closes: status.closes.map(|closes| closes.to_string()),
            unlimited: status.unlimited,
            ..empty
        },
        Err(error) => LimitsRow { error: Some(error.to_string()), ..empty },
    }
}

/// The length of a window: `6.0 h`, `30 min`.
fn window(seconds: u64) -> String {
    if seconds >= 3600 { format!("{:.1} h", seconds as f64 / 3600.0) } else { duration(seconds as f64) }
}

fn line(row: &LimitsRow, terminal: bool) -> String {
    let account = row.account.as_deref().unwrap_or("?");
    let text = match (&row.error, row.limit, row.remaining) {
        (Some(_), ..) => "could not be asked".to_owned(),
        (None, Some(limit), Some(remaining)) => {
            let window = row.window_seconds.map(|seconds| format!(" per {}", window(seconds))).unwrap_or_default();
            let source = row.source.as_ref().map(|source| format!(", counted for {source}")).unwrap_or_default();
            let shown = |closes: &String| format!(", window ends {} at the latest", moment_of(closes, terminal));
            let closes = row.closes.as_ref().map(shown).unwrap_or_default();
            format!("{remaining} of {limit} pulls left{window}{source}{closes}")
        }
        _ => "no pull limit known".to_owned(),
    };
    crate::error::printable(&format!("{:<24} {account:<12} {text}", row.host)) + "\n"
}
