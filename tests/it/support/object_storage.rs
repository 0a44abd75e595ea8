//! Real programs that speak the protocols of object storage: moto for Amazon S3, Azurite for Azure Blob Storage.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::program::Program;
use super::real::{free_address, require};

/// How long a server may take to answer its first request: a Python or Node program on a busy machine.
const STARTUP: Duration = super::room::PATIENCE;

/// The account of every Azurite, and its key: they are public. <https://learn.microsoft.com/azure/storage/common/storage-use-azurite>
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// An object store with an empty bucket (or container) named `larder`; it is killed, and its objects removed, when this is dropped.
pub struct ObjectStorage {
    child: Child,
    address: SocketAddr,
    azure: bool,
    _folder: TempDir,
}

impl Drop for ObjectStorage {
    fn drop(&mut self) {
        self.stop();
    }
}

impl ObjectStorage {
    /// Amazon S3. `None` if moto is not installed.
    pub fn s3() -> Option<Self> {
        Self::start("moto_server", false)
    }

    /// Azure Blob Storage. `None` if Azurite is not installed.
    pub fn azure() -> Option<Self> {
        Self::start("azurite-blob", true)
    }

    /// Each kind that is installed.
    pub fn each() -> Vec<Self> {
        [Self::s3(), Self::azure()].into_iter().flatten().collect()
    }

    fn start(program: &str, azure: bool) -> Option<Self> {
        if !require(program) {
            return None;
        }
        let started = (0..5).find_map(|_| Self::try_start(program, azure));
        Some(started.unwrap_or_else(|| panic!("{program} does not start")))
    }

    fn try_start(program: &str, azure: bool) -> Option<Self> {
        let (folder, address) = (TempDir::new().unwrap(), free_address());
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let mut command = Command::new(program);
        if azure {
            command.args(["--silent", "--skipApiVersionCheck", "--inMemoryPersistence", "--disableTelemetry"]);
            command.args(["--blobHost", &host, "--blobPort", &port]);
        } else {
            command.args(["-H", &host, "-p", &port]);
        }
        let child = command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut storage = ObjectStorage { child: child.unwrap(), address, azure, _folder: folder };
        let until = Instant::now() + STARTUP;
        while Instant::now() < until {
            if storage.child.try_wait().unwrap().is_some() {
                return None;
            }
            // The bucket is created by the first request that is answered.
            if storage.create_bucket().is_some() {
                return storage.child.try_wait().unwrap().is_none().then_some(storage);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }

    fn create_bucket(&self) -> Option<()> {
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(STARTUP)).ok()?;
        let request = if self.azure { self.create_container() } else { "PUT /larder HTTP/1.1\r\n".to_owned() };
        let request = format!("{request}host: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?;
        assert!(["200", "201", "409"].contains(&status), "{answer}");
        Some(())
    }

    /// Signed with the account's key ("Shared Key"): <https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key>
    fn create_container(&self) -> String {
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&jiff::Timestamp::now()).unwrap();
        let headers = format!("x-ms-date:{date}\nx-ms-version:2021-12-02\n");
        let resource = format!("/{AZURITE_ACCOUNT}/{AZURITE_ACCOUNT}/larder\nrestype:container");
        let signed = format!("PUT\n\n\n\n\n\n\n\n\n\n\n\n{headers}{resource}");
        use base64::Engine as _;
        let base64 = base64::engine::general_purpose::STANDARD;
        let signature = base64.encode(hmac(&base64.decode(AZURITE_KEY).unwrap(), signed.as_bytes()));
        format!(
            "PUT /{AZURITE_ACCOUNT}/larder?restype=container HTTP/1.1\r\nx-ms-date: {date}\r\nx-ms-version: 2021-12-02\r\n\
             authorization: SharedKey {AZURITE_ACCOUNT}:{signature}\r\n"
        )
    }

    /// The URL of a prefix in the bucket.
    pub fn url(&self, prefix: &str) -> String {
        format!("{}://larder/{prefix}", if self.azure { "az" } else { "s3" })
    }

    /// Lets `program` find the store, as its users would: by variables.
    pub fn configure(&self, program: &mut Program) {
        if self.azure {
            program.set("AZURE_STORAGE_USE_EMULATOR", "true");
            program.set("AZURITE_BLOB_STORAGE_URL", format!("http://{}", self.address));
        } else {
            program.set("AWS_ENDPOINT_URL", format!("http://{}", self.address));
            program.set("AWS_ACCESS_KEY_ID", "test");
            program.set("AWS_SECRET_ACCESS_KEY", "test-secret");
            program.set("AWS_REGION", "us-east-1");
        }
    }

    /// The names of the objects below a prefix of the bucket, of Amazon S3.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let request = format!("GET /larder?list-type=2&prefix={prefix} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("ListBucketResult"), "{answer}");
        answer.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap().to_owned()).collect()
    }

    /// Kills it.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// HMAC with SHA-256 (RFC 2104).
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 64;
    assert!(key.len() <= BLOCK);
    let pad = |with: u8| (0..BLOCK).map(|at| key.get(at).copied().unwrap_or(0) ^ with).collect::<Vec<u8>>();
    let inner = Sha256::digest([&pad(0x36), text].concat());
    Sha256::digest([&pad(0x5c)[..], &inner[..]].concat()).to_vec()
}
