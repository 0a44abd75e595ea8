//! `larder serve`: a layout as a read-only registry.

use std::net::SocketAddr;
use std::sync::Arc;

use super::args::ServeArgs;
use super::printer::Printer;
use super::{Exit, UsageError, signals};
use crate::content::Repository;
use crate::layout::{AnyName, Layout};
use crate::serve::{ServeBounds, ServeOptions, Server, Tls};
use crate::{Error, Result, name};

pub(super) async fn run(args: &ServeArgs, printer: &Printer) -> Result<Exit, UsageError> {
    let path = super::layout::path_of(&args.layout, "serve")?;
    let layout = Layout::open(&path).await.map_err(UsageError::usage)?;
    let unstated = args.name.as_deref().map(repository).transpose().map_err(UsageError::usage)?;
    let entries = layout.names().await.map_err(UsageError::usage)?;
    let names = entries.iter().filter(|entry| entry.states_repository() || entry.name.is_some() && unstated.is_some()).count();
    let nameless: Vec<&str> = entries.iter().filter(|entry| !entry.states_repository()).filter_map(|entry| entry.name.as_deref()).collect();
    let options = options(args).map_err(UsageError::usage)?;
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let addr = address(&args.listen).await.map_err(UsageError::usage)?;
    let server = Server::bind(addr, Arc::new(AnyName::new(layout, unstated.clone())), options).await.map_err(UsageError::failed)?;
    let url = format!("{scheme}://{}", server.addr());
    if unstated.is_none() && !nameless.is_empty() {
        printer.warn(&unserved(&nameless));
    }
    let stop = signals::listen(printer);
    let plural = if names == 1 { "" } else { "s" };
    let facts = serde_json::json!({"url": url, "layout": path.display().to_string(), "names": names});
    printer.tell(&format!("serving {} at {url} ({names} name{plural}, read-only)", path.display()), &facts);
    server.run_until(stop.cancelled_owned()).await;
    Ok(Exit::Done)
}

/// The repository that `--name` gives.
fn repository(text: &str) -> Result<Repository> {
    let wrong = |why: String| Error::local("read --name", format!("`{text}`: {why}")).remedy("write a repository, like library/redis");
    match name::split_host(text) {
        (Some(host), path) => {
            let host = name::normal_host(host).map_err(wrong)?;
            name::check_path(path).map_err(wrong)?;
            Ok(Repository::new(format!("{host}/{path}")))
        }
        (None, path) => name::check_path(path).map(|()| Repository::new(path)).map_err(wrong),
    }
}

/// So many tags are named where one line speaks of all.
const MOST_TOLD: usize = 5;

fn unserved(tags: &[&str]) -> String {
    let more = if tags.len() > MOST_TOLD { format!(" and {} more", tags.len() - MOST_TOLD) } else { String::new() };
    let told = tags.iter().take(MOST_TOLD).copied().collect::<Vec<_>>().join(", ");
    format!("not served by name, because they say no repository: {told}{more}; --name REPOSITORY says which one they belong to")
}

fn options(args: &ServeArgs) -> Result<ServeOptions> {
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => Some(Tls::read(cert, key)?),
        // The command line has seen to it that there is no one without the other.
        _ => None,
    };
    let known_as = args.known_as.iter().map(|host| name::normal_host(host).map_err(|why| Error::local("read --as", why)));
    let bounds = ServeBounds { connections: args.max_connections, ..ServeBounds::default() };
    Ok(ServeOptions { tls, known_as: known_as.collect::<Result<_>>()?, bounds, ..ServeOptions::default() })
}

/// The address that `--listen` names.
async fn address(listen: &str) -> Result<SocketAddr> {
    let wrong = |why: &str| Error::local("read --listen", format!("`{listen}`: {why}")).remedy("write it like 127.0.0.1:5000 or [::]:5000");
    let mut found = tokio::net::lookup_host(listen).await.map_err(|error| wrong(&error.to_string()))?;
    found.next().ok_or_else(|| wrong("no such address"))
}
