//! Flags, commands and addresses that later versions know: they are refused by name, and never taken for something else.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Command};

/// Flags of later versions.
const FLAGS: [&str; 8] =
    ["--shard", "--run", "--unfinished-exit", "--sign-with", "--verify-with", "--ignore-min-age", "--verify", "--listen"];

/// Commands of later versions.
const COMMANDS: [&str; 6] = ["report", "fleet", "prune", "init", "rehearse", "schema"];

/// Arguments that are not paths: what they say about `https://` is better than what is said here.
const NOT_PATHS: [&str; 6] = ["to", "of", "targets", "image", "registries", "known_as"];

/// What to say about arguments that cannot be parsed, where this version does not know what a later one will.
pub(super) fn refused(error: &clap::Error) -> Option<String> {
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

/// The first argument that names something by an address (`s3://bucket/x`) where only paths of this machine are known.
pub(super) fn address(command: &Command, matches: &ArgMatches) -> Option<String> {
    if let Some((name, below)) = matches.subcommand() {
        return address(command.find_subcommand(name)?, below);
    }
    for argument in command.get_arguments().filter(|argument| argument.get_action().takes_values()) {
        let id = argument.get_id().as_str();
        let given = matches.try_get_raw(id).ok().flatten().into_iter().flatten().filter_map(|value| value.to_str());
        for value in given {
            let path = value.strip_prefix("oci:").unwrap_or(value);
            let is_path = path.len() < value.len() || !NOT_PATHS.contains(&id) || command.get_name() == "export";
            if let Some(why) = crate::config::not_a_path(path).filter(|_| is_path) {
                let name = argument.get_long().map_or_else(String::new, |long| format!("--{long} "));
                return Some(format!("{name}{value}: {why}"));
            }
        }
    }
    None
}
