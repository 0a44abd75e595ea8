//! The ledger alone (`leases`, `file`, `model`), and under gates that share it (`gates`): processes, kills, damaged files.

mod file;
mod gates;
mod leases;
mod model;

use std::time::Duration;

use super::*;
use crate::limits::simulation::account;
use crate::limits::window::{WindowAnswer, WindowReading};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn view(limit: u64) -> Window<Timestamp> {
    Window::fresh(limit, Duration::from_secs(3600), None)
}

/// What a process knows that heard `left` at `seconds`.
fn heard(limit: u64, left: u64, seconds: i64) -> Window<Timestamp> {
    let mut window = view(limit);
    let stamp = at(seconds);
    let heard = WindowAnswer { sent: stamp, arrived: stamp, ours: true };
    assert!(window.hear(&WindowReading { limit, length: window.length, left, source: Some("192.0.2.1".to_owned()), heard }));
    window
}

/// One process: what it holds, and its ledger.
struct Process {
    ledger: Ledger,
    held: u64,
    settled: LeaseSettlement,
}

impl Process {
    fn new(ledger: Ledger) -> Self {
        Process { ledger, held: 0, settled: LeaseSettlement::default() }
    }

    fn number(state: &Path, pid: u32) -> Self {
        Self::new(Ledger::of_process(state, pid))
    }

    fn exchange(&mut self, wants: Vec<u64>, window: Option<Window<Timestamp>>, now: i64) -> Answer {
        let settled = std::mem::take(&mut self.settled);
        let (held, account) = (self.held, account());
        let ask = LeaseRequest { account, window, held, settled, wants, ahead: 0, limit: None, reserve: 0, now: at(now) };
        let answer = self.ledger.store.transact(|data| Some(self.ledger.process.decide(data, &ask))).unwrap().unwrap();
        let granted = ask.wants.iter().zip(&answer.decisions).filter(|(_, decision)| **decision == Decision::Granted);
        self.held += granted.map(|(pulls, _)| pulls).sum::<u64>();
        answer
    }

    fn lease(&mut self, pulls: u64, window: Window<Timestamp>, now: i64) -> Decision {
        self.exchange(vec![pulls], Some(window), now).decisions[0]
    }

    /// `over` pulls that it held are over.
    fn settle(&mut self, over: u64, settled: LeaseSettlement, window: Window<Timestamp>, now: i64) {
        self.held -= over;
        self.settled = settled;
        self.exchange(vec![], Some(window), now);
    }
}

fn unheard(unheard: u64) -> LeaseSettlement {
    LeaseSettlement { unconfirmed: unheard, ..LeaseSettlement::default() }
}

/// A process that is seen to be dead.
fn killed(state: &Path) -> Ledger {
    Ledger::owned_by(state, Owner { pid: u32::MAX, ..Owner::this_process() })
}

impl LeaseRequest {
    fn of(now: Timestamp) -> Self {
        let settled = LeaseSettlement::default();
        LeaseRequest { account: account(), window: None, held: 0, settled, wants: vec![], ahead: 0, limit: None, reserve: 0, now }
    }
}
