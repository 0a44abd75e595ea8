//! A folder in which the program runs while a test watches it, signals it, kills it, and looks at what is on disk; for
//! runs that are only to end, [`super::program`] is shorter.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// After this a run or a condition is taken to hang. Everything is done in seconds on an idle machine; on a busy one it takes as long as
/// it takes, and no test may fail for that.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// Between looks at something that tells nobody when it changes (a process, a folder).
pub const GLANCE: Duration = Duration::from_millis(1);

/// Waits until `condition` holds; `false` if it does not within [`PATIENCE`].
pub fn until(mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(GLANCE);
    }
    true
}

/// A working directory, which is home and state directory too.
pub struct Room(TempDir);

impl Default for Room {
    fn default() -> Self {
        Room(TempDir::new().unwrap())
    }
}

impl Room {
    pub fn new() -> Self {
        Room::default()
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }
    /// Writes a file; its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
    pub fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).unwrap()
    }

    /// Writes `larder.toml`: a target (`layout = "store"`), and a rule for each `(host, target path)`. Images go alone.
    pub fn configure(&self, target: &str, rules: &[(String, &str)]) {
        let rule = |(number, (host, path)): (usize, &(String, &str))| {
            format!("[[rule]]\nname = \"rule-{number}\"\nsource = \"{host}/*\"\ntarget = \"{path}/*\"\nreferrers = false\n")
        };
        let rules: String = rules.iter().enumerate().map(rule).collect();
        self.write("larder.toml", format!("version = 1\nlists = [\"list.txt\"]\n[target]\n{target}\n{rules}"));
    }
    /// Writes `list.txt`, a line for each image.
    pub fn list(&self, images: impl IntoIterator<Item = impl AsRef<str>>) {
        self.write("list.txt", images.into_iter().map(|image| image.as_ref().to_owned() + "\n").collect::<String>());
    }

    /// The program, with nothing of the caller's environment but the path.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        self.wrapped(Command::new(env!("CARGO_BIN_EXE_larder")), arguments)
    }
    /// The same for another program, or another copy of it.
    pub fn wrapped<S: AsRef<OsStr>>(&self, mut command: Command, arguments: impl IntoIterator<Item = S>) -> Command {
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.0.path());
        command.env("XDG_STATE_HOME", self.path("xdg-state")).env("XDG_CONFIG_HOME", self.path("xdg-config"));
        command.env("XDG_RUNTIME_DIR", self.path("xdg-run")).env("TMPDIR", std::env::temp_dir());
        command
    }

    /// Runs it to its end.
    pub fn larder<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        Running::start(self.command(arguments)).finish()
    }
    /// Starts it. It obeys SIGHUP and SIGINT even if the tests themselves run under `nohup` or in the background.
    pub fn start<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Running {
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP,INT", env!("CARGO_BIN_EXE_larder")]);
        Running::start(self.wrapped(command, arguments))
    }
    /// `larder sync` with a report; what came of it.
    pub fn sync(&self, more: &[&str]) -> (Ran, Report) {
        let ran = self.larder([&["sync", "--report", "report.json"], more].concat());
        assert!(self.path("report.json").exists(), "no report was written: {ran:?}");
        let report = Report(self.json("report.json"));
        assert_eq!(report.0["exit"], i64::from(ran.code), "{ran:?}");
        (ran, report)
    }
}

/// A run that has ended.
#[derive(Debug)]
pub struct Ran {
    /// The exit status; -1 if a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Sees that it ended with `code`.
    #[track_caller]
    pub fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        self
    }
}

/// A run under way; it is killed when this is dropped.
pub struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    _files: TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        // Into files: a full pipe would hold the program up.
        let files = TempDir::new().unwrap();
        let (stdout, stderr) = (files.path().join("stdout"), files.path().join("stderr"));
        command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        Running { child: command.spawn().unwrap(), stdout, stderr, _files: files }
    }

    /// What it has said so far.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap()
    }
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
    /// SIGKILL; whether it was still running.
    pub fn kill(mut self) -> bool {
        let running = self.is_running();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        running
    }
    /// Sends `INT`, `TERM`, ...
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Ran {
        let mut ended: Option<ExitStatus> = None;
        until(|| {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        let stdout = std::fs::read_to_string(&self.stdout).unwrap();
        let status = ended.unwrap_or_else(|| panic!("still running after {PATIENCE:?}: {stdout}\n{}", self.stderr()));
        Ran { code: status.code().unwrap_or(-1), stdout, stderr: self.stderr() }
    }
}

/// A report, as `--report` writes it.
#[derive(Debug)]
pub struct Report(pub Value);

impl Report {
    pub fn images(&self) -> &Vec<Value> {
        self.0["images"].as_array().unwrap()
    }
    pub fn total(&self, name: &str) -> u64 {
        self.0["totals"][name].as_u64().unwrap_or_else(|| panic!("no total {name}"))
    }
    /// The row of the image whose source ends with `name`.
    pub fn row(&self, name: &str) -> &Value {
        let found = self.images().iter().find(|row| row["source"].as_str().unwrap().ends_with(name));
        found.unwrap_or_else(|| panic!("no row for {name}: {}", self.0))
    }
    /// Every row's status, in list order.
    pub fn statuses(&self) -> Vec<&str> {
        self.images().iter().map(|row| row["status"].as_str().unwrap()).collect()
    }
    /// Requests of one kind to one registry, over all accounts.
    pub fn requests(&self, host: &str, kind: &str) -> u64 {
        let rows = self.0["registries"].as_array().unwrap().iter().filter(|row| row["host"] == host);
        rows.map(|row| row["requests"][kind].as_u64().unwrap()).sum()
    }
}
