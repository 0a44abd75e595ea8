//! `larder verify`.
use super::args::VerifyArgs;
use super::printer::Printer;
use super::{Exit, Refusal, layout};
use std::path::Path;

pub(super) async fn run(_file: Option<&Path>, args: VerifyArgs, printer: &Printer) -> Result<Exit, Refusal> {
    layout::verify(&args.target, printer).await
}
