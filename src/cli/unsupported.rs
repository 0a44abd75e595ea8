//! Refuses flags, commands and addresses of later versions by name, so that they are never taken for something else.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Command};

/// Flags that later versions will have.
const FLAGS: [&str; 8] =
    ["--shard", "--run", "--unfinished-exit", "--sign-with", "--verify-with", "--ignore-min-age", "--verify", "--listen"];

/// Commands that later versions will have.
const COMMANDS: [&str; 6] = ["report", "fleet", "prune", "init", "rehearse", "schema"];

/// Arguments that are not paths. They have better messages about `https://` of their own.
const NOT_PATHS: [&str; 7] = ["to", "of", "targets", "image", "registries", "known_as", "state"];

/// The message for an argument that cannot be parsed, if a later version will have it.
pub(super) fn reserved_name(error: &clap::Error) -> Option<String> {
    let named = |kind| match error.get(kind) {
        Some(ContextValue::String(name)) => name.split(['=', ' ']).next(),
        _ => None,
    };
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let flag = named(ContextKind::InvalidArg)?;
            FLAGS.contains(&flag).then(|| format!("{flag} is not in this version"))
        }
        ErrorKind::InvalidSubcommand => {
            let command = named(ContextKind::InvalidSubcommand)?;
            COMMANDS.contains(&command).then(|| format!("the command `{command}` is not in this version"))
        }
        ErrorKind::ArgumentConflict => {
            let flag = named(ContextKind::InvalidArg)?;
            let twice = named(ContextKind::PriorArg) == Some(flag);
            (flag == "--to" && twice).then(|| "--to is given twice: several targets are not in this version".to_owned())
        }
        _ => None,
    }
}

/// The message for the first argument that is an address (`s3://bucket/x`) where only local paths are accepted.
pub(super) fn address_for_path(command: &Command, matches: &ArgMatches) -> Option<String> {
    if let Some((name, below)) = matches.subcommand() {
        return address_for_path(command.find_subcommand(name)?, below);
    }
    for argument in command.get_arguments().filter(|argument| argument.get_action().takes_values()) {
        let id = argument.get_id().as_str();
        let given = matches.try_get_raw(id).ok().flatten().into_iter().flatten().filter_map(|value| value.to_str());
        for value in given {
            let path = value.strip_prefix("oci:").unwrap_or(value);
            let is_path = path.len() < value.len() || !NOT_PATHS.contains(&id) || (command.get_name() == "export" && id == "to");
            if let Some(why) = crate::config::not_a_path(path).filter(|_| is_path) {
                let name = argument.get_long().map_or_else(String::new, |long| format!("--{long} "));
                return Some(format!("{name}{value}: {why}"));
            }
        }
    }
    None
}
