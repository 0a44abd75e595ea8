//! The command line. A command has one file or folder, with its arguments, and is the only place that knows them. Other files:
//! output (`printer`, `progress`, `summary`, `causes`, `text`), what commands share (`options`, `inputs`, `outputs`, `checks`,
//! `state`, `lock_file`, `deadlines`, `signals`), and exit statuses. No HTTP, and no decision about images.

mod causes;
mod checks;
mod command_line;
mod config;
mod deadlines;
mod demo;
mod doctor;
mod examples;
mod exit;
mod export;
mod gc;
mod import;
mod inputs;
mod inventory;
mod limits;
mod list;
mod lock_file;
mod options;
mod outputs;
mod plan;
mod printer;
mod progress;
mod rules;
mod serve;
mod shell;
mod signals;
mod state;
mod summary;
mod sync;
mod text;
mod unsupported;
mod verify;

use crate::Operation;
use std::process::ExitCode;

use clap::FromArgMatches as _;

use command_line::{Cli, CliCommand, command};
use exit::{Exit, UsageError};
use printer::Printer;
use sync::SyncCommand;

/// Runs the program: parses the arguments, runs the command, returns the exit status.
pub fn main() -> ExitCode {
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    let printer = Printer::new(&cli.global);
    printer.start_logging();
    crate::registry::install_crypto();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            printer.error(&crate::Error::local(Operation::Start, format!("the runtime cannot be started: {error}")));
            return ExitCode::from(Exit::Failed as u8);
        }
    };
    crate::internal::watch({
        let printer = printer.clone();
        move |what| printer.fail(what, &serde_json::json!({}))
    });
    let done = runtime.block_on(without_panic(dispatch(cli, &printer)));
    // Do not wait for blocking calls of transfers that were told to stop.
    runtime.shutdown_background();
    let exit = done.unwrap_or_else(|refusal| {
        refusal.errors.iter().for_each(|error| printer.error(error));
        refusal.exit
    });
    ExitCode::from(exit as u8)
}

/// Runs a command. A panic in any of them is an internal error with exit status 1.
async fn without_panic(command: impl Future<Output = Result<Exit, UsageError>>) -> Result<Exit, UsageError> {
    crate::internal::caught(Operation::Run, command).await.unwrap_or_else(|error| Err(UsageError::failed(error)))
}

/// Parses the arguments. Arguments that are wrong or that only later versions know are refused with exit status 2.
fn parse(arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<Cli, ExitCode> {
    let refuse = |why: String| {
        eprintln!("error: {why}");
        ExitCode::from(Exit::Usage as u8)
    };
    let explain = |error: clap::Error| match unsupported::reserved_name(&error) {
        Some(why) => refuse(why),
        None => {
            // A closed pipe is no error.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8))
        }
    };
    let definition = command();
    let matches = definition.clone().try_get_matches_from(arguments).map_err(explain)?;
    if let Some(why) = unsupported::address_for_path(&definition, &matches) {
        return Err(refuse(crate::error::printable(&why)));
    }
    Cli::from_arg_matches(&matches).map_err(|error| explain(error.format(&mut command())))
}

async fn dispatch(cli: Cli, printer: &Printer) -> Result<Exit, UsageError> {
    signals::catch_file_size_signal();
    let file = cli.global.config.as_deref();
    match cli.command {
        CliCommand::Plan(args) => plan::run(file, args, printer).await,
        CliCommand::Sync(SyncCommand { args, dry_run: true }) => plan::run(file, args.into_plan(), printer).await,
        CliCommand::Sync(SyncCommand { args, .. }) => sync::run(file, args, printer).await,
        CliCommand::Import(args) => import::run(file, args, printer).await,
        CliCommand::Inventory(args) => inventory::run(file, args, printer).await,
        CliCommand::Export(args) => export::run(file, args, printer).await,
        CliCommand::Verify(args) => verify::run(file, args, printer).await,
        CliCommand::Serve(args) => serve::run(&args, printer).await,
        CliCommand::Gc { layout, dry_run } => gc::run(&layout, dry_run, printer).await,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::internal::blocking;

    fn assert_internal_error(done: Result<Exit, UsageError>, operation: &str) {
        let refusal = done.unwrap_err();
        assert_eq!((refusal.exit, refusal.errors.len()), (Exit::Failed, 1));
        let error = &refusal.errors[0];
        assert_eq!(error.operation().as_str(), operation);
        assert!(error.message().starts_with("internal error") && error.message().contains("no such blob"), "{error}");
    }

    #[tokio::test]
    async fn a_panic_in_a_command_is_an_internal_error_with_exit_status_1() {
        assert_internal_error(without_panic(async { panic!("no such blob") }).await, "run");
        assert_eq!(without_panic(async { Ok(Exit::Unfinished) }).await.unwrap(), Exit::Unfinished);
    }

    #[tokio::test]
    async fn a_panic_while_a_layout_is_cleaned_is_an_internal_error_with_exit_status_1() {
        let printer = Printer::new(&parse(["larder", "gc", "store"].map(Into::into).into_iter()).unwrap().global);
        assert_internal_error(without_panic(gc::report(|| panic!("no such blob"), false, &printer)).await, "gc");
        // The checks of bundles and layouts end in the same way.
        let checked =
            async { blocking(Operation::Verify, || panic!("no such blob")).await.map(|()| Exit::Done).map_err(UsageError::failed) };
        assert_internal_error(without_panic(checked).await, "verify");
    }
}
