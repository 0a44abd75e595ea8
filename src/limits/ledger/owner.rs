//! The process that holds a lease, and whether it is alive.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// A process: its number, and where that number means something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    pub(super) pid: u32,
    /// When it started, in the kernel's ticks: numbers are used again.
    pub(super) started: u64,
    /// Boot and process-number namespace: in another container, or on another machine that shares the state directory, the
    /// same number is somebody else. Empty where that cannot be known.
    pub(super) place: String,
}

impl Owner {
    pub(super) fn this_process() -> Self {
        let pid = std::process::id();
        Owner { pid, started: started(pid).unwrap_or(0), place: place() }
    }

    /// Whether it is certainly dead. Where nothing is certain (another machine, container or boot; no `/proc`), the lease's term decides.
    pub(super) fn is_gone(&self) -> bool {
        // Where we are does not change while we run.
        static HERE: OnceLock<String> = OnceLock::new();
        let here = HERE.get_or_init(place);
        !here.is_empty() && self.place == *here && started(self.pid) != Some(self.started)
    }
}

fn place() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default();
    if boot.trim().is_empty() || namespace.is_empty() { String::new() } else { format!("{} {namespace}", boot.trim()) }
}

/// Field 22 of `/proc/PID/stat` (proc(5)). The second field, the name, may hold anything up to its last `)`.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_live_and_those_of_other_times_and_places_are_not_judged() {
        let me = Owner::this_process();
        assert!(!me.is_gone());
        if me.place.is_empty() {
            return; // no /proc: nothing can be known
        }
        assert!(Owner { started: me.started + 1, ..me.clone() }.is_gone(), "the number is somebody else's now");
        assert!(Owner { pid: u32::MAX, ..me.clone() }.is_gone());
        assert!(!Owner { pid: u32::MAX, place: "elsewhere pid:[1]".to_owned(), ..me }.is_gone());
    }
}
