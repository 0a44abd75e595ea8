//! A real nginx as a caching proxy in front of a registry: it keeps answers by their address.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::real::{free_address, require};

/// How long it may take to answer its first request.
const STARTUP: Duration = Duration::from_secs(20);

/// A caching proxy; it is killed, and its cache removed, when this is dropped.
pub struct Nginx {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Nginx {
    /// A cache of `upstream` (`http://127.0.0.1:5000`) with further directives. `None` if it is not installed.
    pub fn start(upstream: &str, more: &str) -> Option<Self> {
        if !require("nginx") {
            return None;
        }
        let started = (0..5).find_map(|_| Self::try_start(upstream, more));
        Some(started.expect("nginx does not start"))
    }

    fn try_start(upstream: &str, more: &str) -> Option<Self> {
        let (folder, address) = (TempDir::new().unwrap(), free_address());
        let path = |name: &str| folder.path().join(name).display().to_string();
        let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {};\n", path(kind))).concat();
        // One process, so that killing it ends it.
        let text = format!(
            "daemon off;\nmaster_process off;\npid {};\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{temp}\
             proxy_cache_path {} keys_zone=registry:1m inactive=1d;\n\
             server {{\nlisten {address};\nclient_max_body_size 0;\nlocation /v2/ {{\nproxy_pass {upstream};\nproxy_set_header Host $http_host;\n\
             proxy_cache registry;\nproxy_cache_valid 200 1d;\n{more}\n}}\n}}\n}}\n",
            path("pid"),
            path("cache"),
        );
        std::fs::write(folder.path().join("nginx.conf"), text).unwrap();
        let mut command = Command::new("nginx");
        command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
        command.arg("-p").arg(folder.path()).arg("-c").arg(folder.path().join("nginx.conf")).arg("-e").arg("stderr");
        let log = std::fs::File::create(folder.path().join("error.log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut nginx = Nginx { child, address, folder };
        let until = Instant::now() + STARTUP;
        while Instant::now() < until {
            if nginx.child.try_wait().unwrap().is_some() {
                return None;
            }
            if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
                return nginx.child.try_wait().unwrap().is_none().then_some(nginx);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// `127.0.0.1:PORT`
    pub fn addr(&self) -> String {
        self.address.to_string()
    }
}
