//! The one run loop: jobs go in, rows of the report come out. `sync` and `bundle import` both run on it.
//!
//! | subject | file |
//! |---|---|
//! | what a command says about its jobs | `work` |
//! | when each step of a job happens, the drain after an interrupt, the second attempt | `run_loop` |
//! | in which order jobs are expanded | `expansion` |
//! | rows of the report, what each image has cost | `rows`, `row_table` |
//!
//! What a job is, what must be asked and what is copied belongs to the command that implements [`Work`], not here.

mod expansion;
mod row_table;
mod rows;
mod run_loop;
#[cfg(test)]
mod tests;
mod work;

pub(crate) use rows::{Rows, copied, totals, unfinished};
pub(crate) use run_loop::{Limits, RunLoop};
pub(crate) use work::{Group, Rank, Step, Work};
