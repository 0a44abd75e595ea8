//! The program itself, run as its users run it: in a folder of its own, with a home and a state of its own, and nothing of
//! the environment the tests run in.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::fake::Fake;
use super::room::PATIENCE;

/// A folder to run `larder` in.
pub struct Program {
    folder: TempDir,
    variables: Vec<(String, String)>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    /// What `--report report.json` holds; null if nothing was written.
    pub report: Value,
}

impl Program {
    pub fn new() -> Self {
        Program { folder: TempDir::new().unwrap(), variables: vec![] }
    }

    /// Sets an environment variable of all runs to come.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.variables.push((name.to_owned(), value.into()));
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into its folder, and makes the folders above it.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Writes an executable shell script.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.write(name, format!("#!/bin/sh\n{text}"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// The text of a file; empty if there is none.
    pub fn read_if_there(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Writes a `larder.toml` by which `target` (below `m/`) is filled from each of `upstreams`: `m/…` from the only one,
    /// `m/0/…`, `m/1/…` from several.
    pub fn configure(&self, target: &Fake, upstreams: &[&Fake]) {
        self.write("larder.toml", configuration(&target.addr(), upstreams));
    }

    /// Writes a text list `list.txt` of these images.
    pub fn list(&self, images: impl IntoIterator<Item = String>) {
        let lines: Vec<String> = images.into_iter().collect();
        self.write("list.txt", lines.join("\n") + "\n");
    }

    fn command(&self, arguments: &[&str]) -> assert_cmd::Command {
        let mut command = assert_cmd::Command::from_std(self.process(arguments));
        command.timeout(PATIENCE);
        command
    }

    fn process(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.process_of(env!("CARGO_BIN_EXE_larder"));
        command.args(arguments);
        command
    }

    /// `program`, in the folder, with no variables but those of its runs.
    fn process_of(&self, program: &str) -> std::process::Command {
        let mut command = std::process::Command::new(program);
        command.current_dir(self.folder.path()).env_clear();
        command.env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()));
        command.env("HOME", self.path("home")).env("XDG_STATE_HOME", self.path("home/state"));
        command.envs(self.variables.iter().cloned());
        command
    }

    /// Starts `larder` with these arguments, to be ended by a signal. What it says goes to `said.txt`.
    pub fn start(&self, arguments: &[&str]) -> Started {
        let said = std::fs::File::create(self.path("said.txt")).unwrap();
        let child = self.process(arguments).stdin(std::process::Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said).spawn();
        Started(child.unwrap())
    }

    /// Runs `larder` with these arguments.
    pub fn run(&self, arguments: &[&str]) -> Run {
        finish(self.command(arguments), &self.path("report.json"))
    }

    /// Runs a shell's command line in the folder. `larder` is found if the folder's `bin` has it.
    pub fn shell(&self, line: &str) -> Run {
        let mut command = assert_cmd::Command::from_std(self.process_of("sh"));
        command.args(["-c", line]);
        finish(command, &self.path("report.json"))
    }

    /// The same for output that is no text.
    pub fn output(&self, arguments: &[&str]) -> std::process::Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs `larder` with these arguments and this standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Run {
        let mut command = self.command(arguments);
        command.write_stdin(input);
        finish(command, &self.path("report.json"))
    }

    /// `larder sync` with a report.
    pub fn sync(&self, arguments: &[&str]) -> Run {
        self.run(&[&["sync", "--report", "report.json"], arguments].concat())
    }

    /// `larder sync` of `list.txt`, with a report.
    pub fn sync_list(&self) -> Run {
        self.sync(&["list.txt"])
    }

    /// As [`Program::sync`], while the test goes on.
    pub fn start_sync(&self, arguments: &[&str]) -> JoinHandle<Run> {
        let command = self.command(&[&["sync", "--report", "report.json"], arguments].concat());
        let report = self.path("report.json");
        std::thread::spawn(move || finish(command, &report))
    }
}

/// A process under way; killed if it still is when this is dropped.
pub struct Started(std::process::Child);

impl Started {
    /// SIGKILL, now.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// The largest resident size so far, in bytes; `None` once it has ended (or where there is no `/proc`).
    pub fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().split(' ').next()?.parse::<u64>().ok()? * 1024)
    }

    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// SIGTERM; its exit status once it has ended.
    pub fn terminate(mut self) -> i32 {
        let told = std::process::Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        assert!(told.unwrap().success());
        let until = std::time::Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(std::time::Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The text that [`Program::configure`] writes. Images go alone: whoever tests what travels with them says so in rules of its own.
pub fn configuration(target: &str, upstreams: &[&Fake]) -> String {
    let mut text = format!("version = 1\n[target]\nregistry = \"{target}\"\n");
    for (number, upstream) in upstreams.iter().enumerate() {
        let place = if upstreams.len() == 1 { "m".to_owned() } else { format!("m/{number}") };
        text += &format!("[[rule]]\nname = \"u{number}\"\nsource = \"{}/*\"\ntarget = \"{place}/*\"\nreferrers = false\n", upstream.addr());
    }
    text
}

fn finish(mut command: assert_cmd::Command, report: &Path) -> Run {
    let _ = std::fs::remove_file(report);
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    let Some(code) = output.status.code() else { panic!("{} ended it:\n{stderr}", output.status) };
    let report = std::fs::read(report).ok().map(|bytes| serde_json::from_slice(&bytes).unwrap()).unwrap_or_default();
    Run { code, stdout, stderr, report }
}

impl Run {
    /// The same run, if it ended with this status.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// What was printed and how it ended, with the fakes' addresses replaced by names.
    pub fn shown(&self, names: &[(&Fake, &str)]) -> String {
        let text = format!("{}---\n{}exit {}", self.stdout, self.stderr, self.code);
        names.iter().fold(text, |text, (fake, name)| text.replace(&fake.addr(), name))
    }

    /// The report's rows.
    pub fn images(&self) -> &[Value] {
        self.report["images"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The report's rows of this status.
    pub fn with_status(&self, status: &str) -> Vec<&Value> {
        self.images().iter().filter(|row| row["status"] == status).collect()
    }

    /// One of the report's totals.
    pub fn total(&self, name: &str) -> u64 {
        self.report["totals"][name].as_u64().unwrap()
    }

    /// The report's row for a registry, by its address; of several accounts, the first by name.
    pub fn registry(&self, host: &str) -> &Value {
        self.report["registries"].as_array().unwrap().iter().find(|row| row["host"] == host).unwrap()
    }

    /// The only error in the report.
    #[track_caller]
    pub fn error(&self) -> &Value {
        let failed = self.with_status("failed");
        assert_eq!(failed.len(), 1, "{}", self.stderr);
        &failed[0]["error"]
    }
}
