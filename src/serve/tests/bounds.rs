//! What a client may take: connections, time, room in its head.

use super::*;

/// A server with these bounds, with connections to it that are this test's own.
async fn bounded(bounds: ServeBounds) -> (Running, SocketAddr) {
    let server = Running::start(shelf().0, ServeOptions { bounds, ..ServeOptions::default() }).await;
    let addr = server.base.trim_start_matches("http://").parse().unwrap();
    (server, addr)
}

/// Asks for the version over a connection, which stays open if it is answered; the answer.
async fn version(connection: &mut TcpStream) -> String {
    connection.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![];
    while !answer.ends_with(b"\r\n\r\n{}") {
        match connection.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn who_finds_no_place_is_told_to_come_back_and_harms_nobody() {
    let (server, addr) = bounded(ServeBounds { connections: 2, ..ServeBounds::default() }).await;
    let (mut one, mut two) = (TcpStream::connect(addr).await.unwrap(), TcpStream::connect(addr).await.unwrap());
    assert!(version(&mut one).await.starts_with("HTTP/1.1 200 ") && version(&mut two).await.starts_with("HTTP/1.1 200 "));

    let mut refused = TcpStream::connect(addr).await.unwrap();
    refused.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    refused.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 429 ") && answer.contains("\"TOOMANYREQUESTS\"") && answer.contains("retry-after: 1\r\n"),
        "{answer}"
    );
    assert_eq!(server.meter.turned_away(), 1);
    assert!(version(&mut one).await.starts_with("HTTP/1.1 200 "), "who had a place keeps it");

    // A place that becomes free is given to the next one; when the server sees the end of a connection is its own affair.
    drop(two);
    loop {
        let mut next = TcpStream::connect(addr).await.unwrap();
        if version(&mut next).await.starts_with("HTTP/1.1 200 ") {
            break;
        }
    }
}

#[tokio::test]
async fn a_crowd_is_not_answered_one_by_one() {
    let (server, addr) = bounded(ServeBounds { connections: 1, ..ServeBounds::default() }).await;
    let mut one = TcpStream::connect(addr).await.unwrap();
    assert!(version(&mut one).await.starts_with("HTTP/1.1 200 "));
    // They send nothing: as many as are spoken to stay open, waiting for a head; the others are closed at once.
    let mut crowd = vec![];
    for _ in 0..40 {
        crowd.push(TcpStream::connect(addr).await.unwrap());
    }
    let mut closed = 0;
    for connection in &mut crowd[32..] {
        closed += usize::from(connection.read_u8().await.is_err());
    }
    assert_eq!((closed, server.meter.turned_away()), (8, 40));
    assert!(version(&mut one).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn who_does_not_finish_a_request_is_cut_off() {
    // Shorter than anybody would set it: nothing here measures time, the test waits for the end of the connection.
    let head = Duration::from_millis(250);
    let (server, addr) = bounded(ServeBounds { head, ..ServeBounds::default() }).await;
    for begun in ["", "GET /v2/ HTTP/1.1\r\nhost: x\r\nx-slow: ", "GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\nGET /v2/ HT"] {
        let mut slow = TcpStream::connect(addr).await.unwrap();
        slow.write_all(begun.as_bytes()).await.unwrap();
        let mut answer = vec![];
        let _ = slow.read_to_end(&mut answer).await;
        let answers = String::from_utf8(answer).unwrap().matches("HTTP/1.1 200 ").count();
        assert_eq!(answers, usize::from(begun.contains("\r\n\r\n")), "{begun}");
    }
    assert_eq!(server.get("/v2/").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_head_has_its_bounds() {
    let (server, _) = bounded(ServeBounds::default()).await;
    let many: String = (0..100).map(|n| format!("x-{n}: y\r\n")).collect();
    let large = format!("x: {}\r\n", "y".repeat(17 * 1024));
    let endless = format!("x: {}", "y".repeat(80 * 1024));
    for head in [many, large, endless] {
        let answer = server.raw(&format!("GET /v2/ HTTP/1.1\r\nhost: x\r\n{head}connection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    let long = server.raw(&format!("GET /v2/{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "a/".repeat(5000))).await;
    assert!(long.starts_with("HTTP/1.1 400 ") || long.starts_with("HTTP/1.1 404 "), "{long}");
}

#[tokio::test]
async fn a_client_that_has_stopped_reading_is_given_up() {
    let (mut shelf, ..) = shelf();
    let blob = shelf.put_blob(REPOSITORY, "x", vec![0; 32 << 20].into());
    let bounds = ServeBounds { stall: Duration::from_millis(50), connections: 1, ..ServeBounds::default() };
    let server = Running::start(shelf, ServeOptions { bounds, ..ServeOptions::default() }).await;
    let mut connection = TcpStream::connect(server.base.trim_start_matches("http://")).await.unwrap();
    connection.write_all(format!("GET /v2/{REPOSITORY}/blobs/{} HTTP/1.1\r\nhost: x\r\n\r\n", blob.digest).as_bytes()).await.unwrap();
    // Its place becomes free although it does not go.
    loop {
        let response = server.get("/v2/").await;
        if response.status() == StatusCode::OK {
            break;
        }
    }
    assert!(server.meter.read().blob_bytes < 32 << 20);
}
