//! `larder serve`: a layout as a read-only registry.

use std::net::SocketAddr;
use std::sync::Arc;

use super::args::ServeArgs;
use super::printer::Printer;
use super::{Exit, Refusal, signals};
use crate::layout::{AnyName, Layout};
use crate::serve::{Bounds, Options, Server, Tls};
use crate::{Error, Result, name};

pub(super) async fn run(args: &ServeArgs, printer: &Printer) -> Result<Exit, Refusal> {
    let path = super::layout::path_of(&args.layout, "serve")?;
    let layout = Layout::open(&path).await.map_err(Refusal::usage)?;
    let names = layout.names().await.map_err(Refusal::usage)?.iter().filter(|entry| entry.name.is_some() || entry.source.is_some()).count();
    let options = options(args).map_err(Refusal::usage)?;
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let addr = address(&args.listen).await.map_err(Refusal::usage)?;
    let server = Server::bind(addr, Arc::new(AnyName(layout)), options).await.map_err(Refusal::failed)?;
    let url = format!("{scheme}://{}", server.addr());
    let stop = signals::listen(printer);
    let plural = if names == 1 { "" } else { "s" };
    let facts = serde_json::json!({"url": url, "layout": path.display().to_string(), "names": names});
    printer.tell(&format!("serving {} at {url} ({names} name{plural}, read-only)", path.display()), &facts);
    server.run_until(stop.cancelled_owned()).await;
    Ok(Exit::Done)
}

fn options(args: &ServeArgs) -> Result<Options> {
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => Some(Tls::read(cert, key)?),
        // The command line has seen to it that there is no one without the other.
        _ => None,
    };
    let known_as = args.known_as.iter().map(|host| name::normal_host(host).map_err(|why| Error::local("read --as", why)));
    let bounds = Bounds { connections: args.max_connections, ..Bounds::default() };
    Ok(Options { tls, known_as: known_as.collect::<Result<_>>()?, bounds, ..Options::default() })
}

/// The address that `--listen` names.
async fn address(listen: &str) -> Result<SocketAddr> {
    let wrong = |why: &str| Error::local("read --listen", format!("`{listen}`: {why}")).remedy("write it like 127.0.0.1:5000 or [::]:5000");
    let mut found = tokio::net::lookup_host(listen).await.map_err(|error| wrong(&error.to_string()))?;
    found.next().ok_or_else(|| wrong("no such address"))
}
