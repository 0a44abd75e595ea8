//! Container runtimes as clients: podman and containerd, each with storage of its own, so that they need and leave nothing on the machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::room::{Room, Running, until};

/// Podman, run in `room` with these variables.
pub fn podman(room: &Room, variables: &[(&str, &Path)], arguments: &[&str]) -> Output {
    let mut command = Command::new("podman");
    command.arg("--root").arg(room.path("podman")).arg("--runroot").arg(room.path("podman-run"));
    command.args(["--storage-driver", "vfs", "--events-backend", "none"]);
    let mut command = room.wrapped(command, arguments);
    command.envs(variables.iter().copied());
    command.output().unwrap()
}

/// A containerd of its own.
pub struct Containerd<'r> {
    room: &'r Room,
    daemon: Running,
    socket: PathBuf,
}

impl<'r> Containerd<'r> {
    pub fn start(room: &'r Room) -> Self {
        let (root, state, socket) = (room.path("root"), room.path("state"), room.path("containerd.sock"));
        let toml = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {socket:?}\n"
        );
        let config = room.write("containerd.toml", toml);
        let daemon = Running::start(room.wrapped(Command::new("containerd"), [Path::new("--config"), &config]));
        assert!(until(|| daemon.stderr().contains("containerd successfully booted")), "{}", daemon.stderr());
        Containerd { room, daemon, socket }
    }

    /// `ctr`, whatever comes of it.
    pub fn try_ctr(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket);
        self.room.wrapped(command, arguments).output().unwrap()
    }

    /// What `ctr` prints; it must succeed.
    pub fn ctr(&self, arguments: &[&str]) -> String {
        let output = self.try_ctr(arguments);
        assert!(output.status.success(), "ctr {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// SIGTERM; it must end well.
    pub fn stop(self) {
        self.daemon.signal("TERM");
        assert_eq!(self.daemon.finish().code, 0);
    }
}
