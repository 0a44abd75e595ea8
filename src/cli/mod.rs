//! The command line: arguments, one file a command, what is printed where, and the exit status.

mod args;
mod bundle;
mod causes;
mod config;
mod demo;
mod doctor;
mod evidence;
mod examples;
mod export;
mod import;
mod inputs;
mod inventory;
mod later;
mod layout;
mod limits;
mod list;
mod local;
mod locked;
mod outputs;
mod plan;
mod printer;
mod progress;
mod repair;
mod rules;
mod rules_check;
mod rules_export;
mod rules_import;
mod serve;
mod shell;
mod signals;
mod state;
mod summary;
mod sync;
mod times;
mod until;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use args::{Cli, CliCommand, SyncCommand};
use printer::Printer;

/// The exit statuses of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The target holds everything asked for.
    Done = 0,
    /// Something failed, or a check found something.
    Failed = 1,
    /// Usage or configuration: nothing was attempted.
    Usage = 2,
    /// Nothing failed, but unfinished.
    Unfinished = 3,
}

impl Exit {
    fn of(code: u8) -> Self {
        match code {
            0 => Exit::Done,
            3 => Exit::Unfinished,
            2 => Exit::Usage,
            _ => Exit::Failed,
        }
    }
}

/// Why a command did not get to its work: one line each, exit status 2 unless the failure is another's.
#[derive(Debug)]
pub(crate) struct UsageError {
    pub(crate) errors: Vec<crate::Error>,
    pub(crate) exit: Exit,
}

impl From<Vec<crate::Error>> for UsageError {
    fn from(errors: Vec<crate::Error>) -> Self {
        UsageError { errors, exit: Exit::Usage }
    }
}

impl UsageError {
    pub(crate) fn usage(error: crate::Error) -> Self {
        vec![error].into()
    }
    pub(crate) fn failed(error: crate::Error) -> Self {
        UsageError { errors: vec![error], exit: Exit::Failed }
    }
}

/// Runs the program: parses the arguments, carries out the command, gives the exit status.
pub fn main() -> ExitCode {
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    let printer = Printer::new(&cli.global);
    printer.log_requests();
    crate::registry::install_crypto();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            printer.error(&crate::Error::local("start", format!("the runtime cannot be started: {error}")));
            return ExitCode::from(Exit::Failed as u8);
        }
    };
    crate::internal::watch({
        let printer = printer.clone();
        move |what| printer.fail(what, &serde_json::json!({}))
    });
    let done = runtime.block_on(crate::internal::caught("run", dispatch(cli, &printer)));
    let done = done.unwrap_or_else(|error| Err(UsageError::failed(error)));
    // Transfers that were told to stop may still be in blocking calls; they need not be waited for.
    runtime.shutdown_background();
    let exit = done.unwrap_or_else(|refusal| {
        refusal.errors.iter().for_each(|error| printer.error(error));
        refusal.exit
    });
    ExitCode::from(exit as u8)
}

/// The definition of the command line, for parsing, help, completions and the man page.
fn command() -> clap::Command {
    examples::with_examples(Cli::command())
}

/// The arguments; what cannot be parsed, and what only later versions know, is refused with exit status 2.
fn parse(arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<Cli, ExitCode> {
    let refuse = |why: String| {
        eprintln!("error: {why}");
        ExitCode::from(Exit::Usage as u8)
    };
    let explain = |error: clap::Error| match later::refused(&error) {
        Some(why) => refuse(why),
        None => {
            // A reader that has gone away is no failure.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8))
        }
    };
    let known = command();
    let matches = known.clone().try_get_matches_from(arguments).map_err(explain)?;
    if let Some(why) = later::address(&known, &matches) {
        return Err(refuse(crate::error::printable(&why)));
    }
    Cli::from_arg_matches(&matches).map_err(|error| explain(error.format(&mut command())))
}

async fn dispatch(cli: Cli, printer: &Printer) -> Result<Exit, UsageError> {
    signals::survive_large_files();
    let file = cli.global.config.as_deref();
    match cli.command {
        CliCommand::Plan(args) => plan::run(file, args, printer).await,
        CliCommand::Sync(SyncCommand { args, dry_run: true }) => plan::run(file, args.planned(), printer).await,
        CliCommand::Sync(SyncCommand { args, .. }) => sync::run(file, args, printer).await,
        CliCommand::Import(args) => import::run(file, args, printer).await,
        CliCommand::Inventory(args) => inventory::run(file, args, printer).await,
        CliCommand::Export(args) => export::run(file, args, printer).await,
        CliCommand::Verify(args) => verify::run(file, args, printer).await,
        CliCommand::Serve(args) => serve::run(&args, printer).await,
        CliCommand::Gc { layout, dry_run } => layout::gc(&layout, dry_run, printer).await,
        CliCommand::Limits(args) => limits::run(file, args, printer).await,
        CliCommand::Rules(command) => rules::run(file, command, printer).await,
        CliCommand::List(command) => list::run(file, command, printer),
        CliCommand::Config(command) => config::run(file, &command, printer).await,
        CliCommand::Doctor { state } => doctor::run(file, state.as_deref(), printer).await,
        CliCommand::Demo { dir } => demo::run(&dir, printer).await,
        CliCommand::Completions { shell } => shell::completions(shell, printer),
        CliCommand::Man => shell::man(printer),
    }
}
