//! `larder serve`, running.

use reqwest::{Client, Method, Response};
use serde_json::Value;

use super::push::client;
use super::room::{Room, Running, until};

/// A running `larder serve` of a room's store, and a client of it.
pub struct Served {
    pub running: Running,
    /// `http://127.0.0.1:PORT`
    pub url: String,
    pub client: Client,
}

impl Served {
    pub fn start(room: &Room, more: &[&str]) -> Self {
        let running = room.start([&["serve", "store", "--listen", "127.0.0.1:0"], more].concat());
        assert!(until(|| running.stderr().contains("(")), "{}", running.stderr());
        let said = running.stderr();
        let url = said.split_whitespace().find(|word| word.contains("://")).unwrap().to_owned();
        Served { running, url, client: client() }
    }

    /// `127.0.0.1:PORT`
    pub fn addr(&self) -> &str {
        self.url.split_once("://").unwrap().1
    }

    pub async fn ask(&self, method: Method, path: &str) -> Response {
        self.client.request(method, format!("{}{path}", self.url)).send().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path).await
    }

    pub async fn json(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }

    /// The digest that a name has there; empty if there is none.
    pub async fn digest(&self, path: &str) -> String {
        header(&self.ask(Method::HEAD, path).await, "docker-content-digest").to_owned()
    }

    /// SIGTERM; how it ended.
    pub fn stop(self) -> i32 {
        self.running.signal("TERM");
        self.running.finish().code
    }
}

/// A header of an answer; empty if it has none.
pub fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}
