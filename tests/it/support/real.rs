//! Real programs: Debian's docker-registry, skopeo, umoci.
//!
//! Where one is missing, the test that wanted it says so aloud and passes; with `LARDER_REQUIRE_REAL=1` (as in CI) it fails.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Set to `1` where missing programs are a failure.
pub const REQUIRE: &str = "LARDER_REQUIRE_REAL";

/// How long a registry may take to answer its first request: it does in about 50 ms on an idle machine.
const STARTUP: Duration = super::room::PATIENCE;

/// Whether `tool` can be run.
///
/// # Panics
/// If it cannot, and `LARDER_REQUIRE_REAL` is `1`.
pub fn require(tool: &str) -> bool {
    let installed = is_installed(tool);
    assert!(installed || std::env::var(REQUIRE).as_deref() != Ok("1"), "{tool} is not installed, and {REQUIRE}=1 says that it must be");
    installed || not_tested(&format!("{tool} is not installed (apt-get install {tool})"))
}

/// Whether `tool`, which only root can run as a test needs it, can be run. Not being root is said and is no failure: the tool needs a
/// machine of its own (namespaces, file systems), which not every place to test in is.
///
/// # Panics
/// As [`require`].
pub fn as_root(tool: &str) -> bool {
    if !require(tool) {
        return false;
    }
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.trim_ascii() == b"0" || not_tested(&format!("{tool} has to be run as root"))
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian's nginx is where only root's PATH leads.
    std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|folder| folder.join(tool).is_file())
}

pub fn not_tested(why: &str) -> bool {
    // The test harness shows no output of a test that passes: this goes around its capture.
    let _ = writeln!(std::io::stderr(), "\n*** NOT TESTED: {why} ***\n");
    false
}

/// Runs skopeo without its signature policy. `None` if it is not installed.
pub fn skopeo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Option<Output> {
    let mut command = Command::new("skopeo");
    command.arg("--insecure-policy").args(arguments);
    require("skopeo").then(|| command.output().unwrap())
}

/// Runs skopeo and gives its output.
///
/// # Panics
/// If it fails, with what it said.
pub fn skopeo_ok<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Option<String> {
    let output = skopeo(arguments)?;
    assert!(output.status.success(), "skopeo: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Debian's docker-registry on a port of its own; it is killed, and what it holds removed, when this is dropped.
pub struct DockerRegistry {
    child: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.path().join(ERROR_LOG)).unwrap_or_default();
            eprintln!("docker-registry {} said:\n{log}", self.address);
        }
    }
}

impl DockerRegistry {
    /// An empty registry that takes pushes (also of manifests that name `urls`) and deletions. `None` if it is not installed.
    pub fn start() -> Option<Self> {
        Self::start_with("")
    }

    /// An empty registry that can tell what it was asked: [`DockerRegistry::requests`].
    pub fn start_counting() -> Option<Self> {
        Self::start_as(&config_counting, "")
    }

    /// A pull-through cache of the registry at `remote` (`http://127.0.0.1:5000`).
    pub fn start_proxy(remote: &str) -> Option<Self> {
        Self::start_with(&format!("proxy:\n  remoteurl: {remote}\n"))
    }

    /// A registry with more lines of configuration.
    pub fn start_with(more: &str) -> Option<Self> {
        Self::start_as(&config, more)
    }

    fn start_as(config: &dyn Fn(&Path, SocketAddr) -> String, more: &str) -> Option<Self> {
        if !require("docker-registry") {
            return None;
        }
        // Between looking for a free port and the registry's taking it, another process may: then another one.
        let started = (0..5).find_map(|_| Self::try_start(config, more));
        Some(started.expect("docker-registry does not start"))
    }

    fn try_start(config: &dyn Fn(&Path, SocketAddr) -> String, more: &str) -> Option<Self> {
        let directory = fast_folder();
        let address = free_address();
        let configuration = directory.path().join("config.yml");
        std::fs::write(&configuration, config(&directory.path().join("data"), address) + more).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&configuration).stdin(Stdio::null());
        command.stderr(std::fs::File::create(directory.path().join(ERROR_LOG)).unwrap());
        command.stdout(std::fs::File::create(directory.path().join(ACCESS_LOG)).unwrap());
        // Debian's package reads REGISTRY_* variables over its file.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("REGISTRY_")) {
            command.env_remove(name);
        }
        let child = command.spawn().unwrap();
        let mut registry = DockerRegistry { child, address, directory };
        let until = Instant::now() + STARTUP;
        while Instant::now() < until {
            if registry.child.try_wait().unwrap().is_some() {
                return None;
            }
            if answers(address) {
                // If another process has the port, ours has ended.
                return registry.child.try_wait().unwrap().is_none().then_some(registry);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// `127.0.0.1:PORT`
    pub fn addr(&self) -> String {
        self.address.to_string()
    }

    /// Where it keeps its files (distribution's layout, below `docker/registry/v2`).
    pub fn dir(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    /// The methods of the requests it has answered, in their order, if it is one that counts.
    pub fn requests(&self) -> Vec<String> {
        let path = self.directory.path().join(ACCESS_LOG);
        let read = || std::fs::read_to_string(&path).unwrap();
        // A line is written after its answer: once the line of a last request is there, and nothing more comes, those before it are too.
        let marker = format!("/v2/marker-{}/", NEXT_PORT.fetch_add(1, Ordering::SeqCst));
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(format!("GET {marker} HTTP/1.0\r\nhost: registry\r\n\r\n").as_bytes()).unwrap();
        let mut answer = vec![];
        stream.read_to_end(&mut answer).unwrap();
        let mut log = String::new();
        loop {
            std::thread::sleep(Duration::from_millis(50));
            let now = read();
            if now == log && now.contains(&marker) {
                let lines = now.lines().filter(|line| !line.contains("/v2/marker-"));
                return lines.filter_map(|line| line.split_once(" \"")?.1.split(' ').next().map(str::to_owned)).collect();
            }
            log = now;
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it; what it holds stays until this is dropped.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The next port to try.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// An address whose port the system gives to nobody by itself: connections and listeners on port 0 get theirs from 32768 up (Linux), so
/// that no other test can have it by the time the registry listens.
pub(super) fn free_address() -> SocketAddr {
    loop {
        let nth = u32::from(NEXT_PORT.fetch_add(1, Ordering::SeqCst));
        let port = 12_000 + (std::process::id() * 131 + nth) % 20_000;
        let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A folder in memory, if there is one of some size. docker-registry 2.8 empties a link file before it writes it, and answers 500 for
/// as long as a busy disk keeps it between the two.
fn fast_folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |disk| disk.f_bavail * disk.f_frsize);
    let in_memory = (free > 1 << 30).then(|| TempDir::new_in(memory).ok()).flatten();
    in_memory.unwrap_or_else(|| TempDir::new().unwrap())
}

/// What a registry says about its failures. A failed test shows it.
const ERROR_LOG: &str = "error.log";

/// Where a counting registry's lines go, in Apache's combined log format.
const ACCESS_LOG: &str = "access.log";

fn config_counting(data: &Path, address: SocketAddr) -> String {
    config(data, address).replace("disabled: true", "disabled: false")
}

fn config(data: &Path, address: SocketAddr) -> String {
    format!(
        "version: 0.1
log:
  level: error
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: {}
  delete:
    enabled: true
  maintenance:
    uploadpurging:
      enabled: false
http:
  addr: {address}
validation:
  manifests:
    urls:
      allow:
        - '^https?://'
",
        data.display()
    )
}

/// Whether `/v2/` is answered 200.
fn answers(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let asked = stream.write_all(b"GET /v2/ HTTP/1.0\r\nhost: registry\r\n\r\n");
    let mut answer = String::new();
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.0 200")
}
