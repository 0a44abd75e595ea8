//! The `larder` binary: everything it does lives in the library.

fn main() -> std::process::ExitCode {
    larder::cli::main()
}
