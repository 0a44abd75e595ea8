//! `larder serve`: a layout as a read-only registry.

// These texts are the program's help, where `[...]` and `<...>` are not links and tags.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::exit::{Exit, UsageError};
use super::printer::Printer;
use super::text::count;
use super::{inputs, signals};
use crate::content::Repository;
use crate::layout::{AnyName, Layout};
use crate::serve::{ServeBounds, ServeOptions, Server, Tls};
use crate::{Error, Operation, Result, name};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// The layout's folder (or oci:DIR)
    #[arg(value_name = "LAYOUT")]
    pub(super) layout: String,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5000")]
    pub(super) listen: String,
    /// Serve TLS: the certificate and its chain, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(super) tls_cert: Option<PathBuf>,
    /// The certificate's key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(super) tls_key: Option<PathBuf>,
    /// Answer for this registry's names as the target has them: containerd's ?ns=HOST, and HOST/...; repeatable
    #[arg(long = "as", value_name = "HOST")]
    pub(super) known_as: Vec<String>,
    /// Repository of entries that have a tag and no repository, as skopeo, oras and regctl write them (HOST/PATH or PATH).
    /// Without it they are not served by name
    #[arg(long, value_name = "REPOSITORY")]
    pub(super) name: Option<String>,
    /// Connections at once; further ones get 503
    #[arg(long, value_name = "N", default_value_t = ServeBounds::default().connections, value_parser = connections)]
    pub(super) max_connections: usize,
}

fn connections(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=65_536) => Ok(count),
        _ => Err("a number from 1 to 65536".to_owned()),
    }
}

pub(super) async fn run(args: &ServeArgs, printer: &Printer) -> Result<Exit, UsageError> {
    let path = inputs::layout_path(&args.layout, Operation::Serve)?;
    let layout = Layout::open(&path).await.map_err(UsageError::usage)?;
    let default_repository = args.name.as_deref().map(repository).transpose().map_err(UsageError::usage)?;
    let entries = layout.names().await.map_err(UsageError::usage)?;
    let names = entries.iter().filter(|entry| entry.states_repository() || entry.name.is_some() && default_repository.is_some()).count();
    let nameless: Vec<&str> = entries.iter().filter(|entry| !entry.states_repository()).filter_map(|entry| entry.name.as_deref()).collect();
    let options = options(args).map_err(UsageError::usage)?;
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let addr = address(&args.listen).await.map_err(UsageError::usage)?;
    let server =
        Server::bind(addr, Arc::new(AnyName::new(layout, default_repository.clone())), options).await.map_err(UsageError::failed)?;
    let url = format!("{scheme}://{}", server.addr());
    if default_repository.is_none() && !nameless.is_empty() {
        printer.warn(&not_served(&nameless));
    }
    let stop = signals::listen(printer);
    let facts = serde_json::json!({"url": url, "layout": path.display().to_string(), "names": names});
    printer.say_with(&format!("serving {} at {url} ({}, read-only)", path.display(), count(names, "name")), &facts);
    server.run_until(stop.cancelled_owned()).await;
    Ok(Exit::Done)
}

/// The repository that `--name` gives.
fn repository(text: &str) -> Result<Repository> {
    let wrong =
        |why: String| Error::local(Operation::ReadName, format!("`{text}`: {why}")).remedy("write a repository, like library/redis");
    match name::split_host(text) {
        (Some(host), path) => {
            let host = name::normal_host(host).map_err(wrong)?;
            name::check_path(path).map_err(wrong)?;
            Ok(Repository::new(format!("{host}/{path}")))
        }
        (None, path) => name::check_path(path).map(|()| Repository::new(path)).map_err(wrong),
    }
}

/// Tags that are printed, so that the line stays readable.
const TAGS_SHOWN: usize = 5;

fn not_served(tags: &[&str]) -> String {
    let more = if tags.len() > TAGS_SHOWN { format!(" and {} more", tags.len() - TAGS_SHOWN) } else { String::new() };
    let shown = tags.iter().take(TAGS_SHOWN).copied().collect::<Vec<_>>().join(", ");
    format!("not served by name, because they say no repository: {shown}{more}; give it with --name REPOSITORY")
}

fn options(args: &ServeArgs) -> Result<ServeOptions> {
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => Some(Tls::read(cert, key)?),
        // Each option requires the other.
        _ => None,
    };
    let known_as = args.known_as.iter().map(|host| name::normal_host(host).map_err(|why| Error::local(Operation::ReadAs, why)));
    let bounds = ServeBounds { connections: args.max_connections, ..ServeBounds::default() };
    Ok(ServeOptions { tls, known_as: known_as.collect::<Result<_>>()?, bounds, ..ServeOptions::default() })
}

/// The address that `--listen` names.
async fn address(listen: &str) -> Result<SocketAddr> {
    let wrong =
        |why: &str| Error::local(Operation::ReadListen, format!("`{listen}`: {why}")).remedy("write it like 127.0.0.1:5000 or [::]:5000");
    let mut found = tokio::net::lookup_host(listen).await.map_err(|error| wrong(&error.to_string()))?;
    found.next().ok_or_else(|| wrong("no such address"))
}
