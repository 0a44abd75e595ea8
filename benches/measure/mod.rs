//! What a program costs: seconds, CPU seconds and memory of a process with all its children, out of `/proc`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often memory is looked at. `VmHWM` is the kernel's own high-water mark, so only what is new in a process's last
/// moments can be missed.
const EVERY: Duration = Duration::from_millis(3);

/// The unit of CPU times in `/proc`: `USER_HZ` is 100 on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

/// What one run of a program cost.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// From start to end.
    pub wall: f64,
    /// User and system, all processes.
    pub cpu: f64,
    /// Resident bytes: the largest sum of the high-water marks of the processes that were alive together.
    pub peak: u64,
}

/// Runs `command` to its end; its output is kept from the terminal.
///
/// # Panics
/// If it fails, with what it said.
pub fn run(command: &mut Command) -> Cost {
    let errors = tempfile::NamedTempFile::new().unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors.reopen().unwrap());
    // What is still to be written of the run before is not this one's to pay.
    let _ = Command::new("sync").status();
    let (before, start) = (reaped(), Instant::now());
    let mut child = command.spawn().unwrap();
    let (pid, done) = (child.id(), AtomicBool::new(false));
    let (status, wall, peak) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            while !done.load(Ordering::Relaxed) {
                peak = peak.max(resident(pid));
                std::thread::sleep(EVERY);
            }
            peak
        });
        let status = child.wait().unwrap();
        let wall = start.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        (status, wall, watch.join().unwrap())
    });
    assert!(status.success(), "{command:?}: {status}\n{}", fs::read_to_string(errors.path()).unwrap());
    Cost { wall, cpu: reaped() - before, peak }
}

/// CPU seconds of this process's ended children, theirs included.
fn reaped() -> f64 {
    times("/proc/self/stat", 15)
}

/// The sum, in seconds, of the two times of a `stat` file of `/proc` from field `first` (counted from 0; proc(5)) on.
pub fn times(stat: &str, first: usize) -> f64 {
    let stat = fs::read_to_string(stat).unwrap_or_default();
    // The second field is the program's name in brackets, and may hold anything.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().skip(first - 2).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS
}

fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0);
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    kib * 1024 + children.split_ascii_whitespace().filter_map(|child| child.parse().ok()).map(resident).sum::<u64>()
}

/// What `cargo bench` was asked for: `None` under `cargo test`, which runs benches only to see that they start; else the
/// words that choose among cases.
pub fn asked() -> Option<Vec<String>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    arguments.iter().any(|argument| argument == "--bench").then(|| arguments.into_iter().filter(|word| !word.starts_with('-')).collect())
}

/// The machine, and the versions of what runs on it.
pub fn machine(tools: &[&str]) {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("unknown", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("machine: {cores} cores, {model}; load before: {}", load.split(' ').next().unwrap_or_default());
    for tool in [env!("CARGO_BIN_EXE_larder")].iter().chain(tools) {
        let version = Command::new(tool).arg("--version").output().unwrap().stdout;
        println!("version: {}", String::from_utf8_lossy(&version).trim());
    }
}

/// `larder sync` of `list` to `to`, with nothing of this machine's own configuration, and `folder` as its state.
pub fn larder(list: &Path, to: &str, folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.arg("-c").arg(folder.join("larder.toml")).args(["sync", "--quiet", "--to", to, "--state"]).arg(folder.join("state")).arg(list);
    command
}

pub const MIB: f64 = (1u32 << 20) as f64;
