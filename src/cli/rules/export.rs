//! `larder rules export`.

use std::path::Path;

use clap::ValueEnum;

use crate::cli::exit::{Exit, UsageError};
use crate::cli::printer::Printer;
use crate::config::{Config, RegistrySettings, TargetConfig};
use crate::rules::export::{ExportContext, Exported, Format, export};
use crate::{Error, Operation};

/// The operation that errors name.
const OPERATION: Operation = Operation::ExportRules;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    Az,
    Ecr,
    Containerd,
    Podman,
    K3s,
    Openshift,
}

pub(super) fn run(
    file: Option<&Path>,
    format: ExportFormat,
    dir: Option<&Path>,
    no_fallback: bool,
    printer: &Printer,
) -> Result<Exit, UsageError> {
    let config = Config::load(file)?;
    let refuse = |message: String, remedy: &str| UsageError::usage(Error::local(OPERATION, message).remedy(remedy));
    if no_fallback && !format_of(format).is_for_clients() {
        return Err(refuse(
            "--no-fallback applies to client configurations only".to_owned(),
            "leave it out: a cache always asks its upstream",
        ));
    }
    let TargetConfig::Registry { host, prefix } = &config.target else {
        return Err(refuse(
            format!("the target {} is a layout, which clients cannot pull from", config.target),
            "set `registry` in [target]",
        ));
    };
    if config.rules.rules().is_empty() {
        return Err(refuse("there are no rules".to_owned(), "write a [[rule]] into larder.toml"));
    }
    let settings = config.registry(host);
    let file_of = |settings: &RegistrySettings| settings.ca.as_ref().map(|file| file.display().to_string());
    let ca = file_of(&settings);
    let context = ExportContext {
        rules: &config.rules,
        host,
        prefix,
        // `endpoint` is for larder only; nodes use the registry's name.
        plain_http: RegistrySettings { endpoint: None, ..settings.clone() }.is_plain(host),
        insecure: settings.insecure_skip_verify,
        ca: ca.as_deref(),
        upstream_ca: &|host| file_of(&config.registry(host)),
        fallback: !no_fallback,
        credentials: &|host| config.credential_set_for(host).map(|set| set.name.clone()),
        endpoint: &|host| endpoint(&config, host),
    };
    let exported = export(format_of(format), &context);
    match dir {
        Some(dir) => write(dir, &exported).map_err(UsageError::failed)?,
        None => printer.data(&shown(&exported)),
    }
    exported.unsaid.iter().for_each(|line| printer.warn(line));
    Ok(Exit::Done)
}

fn format_of(format: ExportFormat) -> Format {
    match format {
        ExportFormat::Az => Format::Az,
        ExportFormat::Ecr => Format::Ecr,
        ExportFormat::Containerd => Format::Containerd,
        ExportFormat::Podman => Format::Podman,
        ExportFormat::K3s => Format::K3s,
        ExportFormat::Openshift => Format::Openshift,
    }
}

/// The URL of an upstream's API: configured, from its profile, or its own name.
fn endpoint(config: &Config, host: &str) -> String {
    let settings = config.registry(host);
    let known = settings.profile(host).and_then(|profile| profile.endpoint).filter(|_| settings.profile.is_none());
    match (&settings.endpoint, known) {
        (Some(endpoint), _) => endpoint.as_str().trim_end_matches('/').to_owned(),
        (None, Some(known)) => format!("https://{known}"),
        (None, None) => format!("{}://{host}", if settings.is_plain(host) { "http" } else { "https" }),
    }
}

/// The files as one text, each below its path if there are several.
fn shown(exported: &Exported) -> String {
    let mut out = String::new();
    for file in &exported.files {
        if file.path.contains('/') {
            out.push_str(&format!("# {}\n", file.path));
        }
        out.push_str(&file.text);
        if file.path.contains('/') {
            out.push('\n');
        }
    }
    out
}

fn write(dir: &Path, exported: &Exported) -> Result<(), Error> {
    for file in &exported.files {
        let path = dir.join(&file.path);
        let folder = path.parent().unwrap_or(dir);
        std::fs::create_dir_all(folder).map_err(|error| Error::io(OPERATION, folder, &error))?;
        std::fs::write(&path, &file.text).map_err(|error| Error::io(OPERATION, &path, &error))?;
    }
    Ok(())
}
