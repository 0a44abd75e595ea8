//! How long tokens are kept, and how many requests share one.

use super::*;

#[tokio::test(start_paused = true)]
async fn fifty_requests_share_one_token_request() {
    let (auth, purse) = hub(vec![password("pw")]);
    let server = Server::generous();
    assert!(crowd(&auth, &server, 50, one).await.into_iter().all(|header| header.unwrap() == "Bearer t1"));
    assert_eq!((server.count(), purse.reads.load(Ordering::Relaxed)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn waiters_share_a_failure_and_the_next_call_asks_again() {
    for scopes in [one, many] {
        let (auth, _) = hub(vec![password("pw")]);
        let server = Server::always(503, "");
        for error in crowd(&auth, &server, 50, scopes).await.into_iter().map(Result::unwrap_err) {
            assert_eq!((error.kind(), error.http_status()), (Kind::Unavailable, Some(503)));
        }
        assert_eq!(server.count(), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        challenged(&auth, HUB, &one(0), None, &server).await.unwrap_err();
        assert_eq!(server.count(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn if_the_one_who_asks_is_cancelled_another_asks() {
    let (auth, _) = hub(vec![Login::Anonymous]);
    let server = Server::generous();
    let spawn = || {
        let (auth, server) = (Arc::clone(&auth), Arc::clone(&server));
        tokio::spawn(async move { challenged(&auth, HUB, &one(0), None, &server).await })
    };
    let (first, second) = (spawn(), spawn());
    tokio::time::sleep(Duration::from_millis(10)).await;
    first.abort();
    assert_eq!(second.await.unwrap().unwrap(), "Bearer t2");
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_shortly_before_it_ends() {
    let (auth, _) = hub(vec![Login::Anonymous]);
    let server = Server::generous();
    let alpine = one(0);
    challenged(&auth, HUB, &alpine, None, &server).await.unwrap(); // a second has passed; 270 is when it is renewed
    tokio::time::advance(Duration::from_secs(268)).await;
    assert_eq!(auth.authorization(&alpine, &*server).await.unwrap().unwrap(), "Bearer t1");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(auth.authorization(&alpine, &*server).await.unwrap().unwrap(), "Bearer t2");
}

#[tokio::test(start_paused = true)]
async fn a_push_token_serves_pulls_until_it_is_refused_for_one() {
    let (auth, _) = hub(vec![Login::Anonymous]);
    let server = Server::generous();
    let wide = challenged(&auth, HUB, &Scopes::mount("a", "b"), None, &server).await.unwrap();
    for scopes in [Scopes::pull("a"), Scopes::push("a"), Scopes::pull("b"), Scopes::none()] {
        assert_eq!(auth.authorization(&scopes, &*server).await.unwrap().as_ref(), Some(&wide));
    }
    // The mount's token was granted less than it was asked for: b gets its own.
    let own = challenged(&auth, HUB, &Scopes::pull("b"), Some(&wide), &server).await.unwrap();
    assert_eq!(own, "Bearer t2");
    assert_eq!(auth.authorization(&Scopes::pull("b"), &*server).await.unwrap(), Some(own));
    assert_eq!(auth.authorization(&Scopes::pull("a"), &*server).await.unwrap(), Some(wide));
    assert_eq!(auth.authorization(&Scopes::push("b"), &*server).await.unwrap().unwrap(), "Bearer t3");
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_replaced_once_not_in_circles() {
    let (auth, _) = hub(vec![password("pw")]);
    let server = Server::generous();
    let alpine = one(0);
    let first = challenged(&auth, HUB, &alpine, None, &server).await.unwrap();
    let second = challenged(&auth, HUB, &alpine, Some(&first), &server).await.unwrap();
    assert_eq!(second, "Bearer t2");
    // Another request went out with the first token: it gets the second.
    assert_eq!(challenged(&auth, HUB, &alpine, Some(&first), &server).await.unwrap(), second);
    let error = challenged(&auth, HUB, &alpine, Some(&second), &server).await.unwrap_err();
    insta::assert_snapshot!(error, @"upstream: log in to docker.io: 401 the registry refuses the token it was given for `library/alpine`, asked as `hub` (check the name, and what the credential set `hub` may do)");
    assert_eq!(server.count(), 2);
    // After a minute of service a refusal means something else: it has ended early.
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(challenged(&auth, HUB, &alpine, Some(&second), &server).await.unwrap(), "Bearer t3");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_served_and_ended_early_is_replaced_however_soon() {
    let (auth, _) = hub(vec![password("pw")]);
    let server = Server::generous();
    let alpine = one(0);
    let mut token = challenged(&auth, HUB, &alpine, None, &server).await.unwrap();
    for _ in 0..4 {
        auth.served(&alpine, &token);
        let next = challenged(&auth, HUB, &alpine, Some(&token), &server).await.unwrap();
        assert_ne!(next, token);
        token = next;
    }
    // One that never served is not replaced in circles.
    assert_eq!(challenged(&auth, HUB, &alpine, Some(&token), &server).await.unwrap_err().kind(), Kind::Unauthorized);
}

#[tokio::test(start_paused = true)]
async fn a_genuine_token_that_grants_too_little_is_not_replaced() {
    let (auth, _) = hub(vec![Login::Anonymous]);
    let server = Server::generous();
    let token = challenged(&auth, HUB, &one(0), None, &server).await.unwrap();
    let insufficient = format!(r#"{HUB},scope="repository:library/alpine:pull",error="insufficient_scope""#);
    let error = challenged(&auth, &insufficient, &one(0), Some(&token), &server).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert_eq!(server.count(), 1);
}

/// A token that says what it is good for: the first `most` scopes of its request, without private repositories.
fn claiming(request: &TokenRequest, most: usize) -> String {
    use base64::Engine as _;
    let scopes = request.url.query_pairs().filter(|(key, _)| key == "scope").map(|(_, scope)| scope.into_owned());
    let access: Vec<_> = scopes
        .take(most)
        .filter(|scope| !scope.contains("private"))
        .map(|scope| {
            let parts: Vec<&str> = scope.split(':').collect();
            serde_json::json!({"type": parts[0], "name": parts[1], "actions": parts[2].split(',').collect::<Vec<_>>()})
        })
        .collect();
    let claims = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(serde_json::json!({ "access": access }).to_string());
    format!(r#"{{"token":"e30.{claims}.x","expires_in":300}}"#)
}

fn scopes_of(server: &Server) -> Vec<usize> {
    server.lines().iter().map(|line| line.matches("scope=").count()).collect()
}

#[tokio::test(start_paused = true)]
async fn one_token_is_requested_for_the_repositories_that_wait_for_one() {
    for login in [Login::Anonymous, password("pw")] {
        let (auth, _) = hub(vec![login]);
        let server = Server::new(|request, _| (200, claiming(request, usize::MAX)));
        let headers = crowd(&auth, &server, 21, many).await;
        assert_eq!(scopes_of(&server), [1, 10, 10]);
        // Each has a token for its repository, and asks for none again.
        for (n, header) in headers.into_iter().enumerate() {
            assert_eq!(auth.authorization(&many(n), &*server).await.unwrap(), Some(header.unwrap()));
        }
        assert_eq!(server.count(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_grant_several_scopes_is_asked_for_each_and_never_more_often() {
    let opaque = Server::generous();
    let first_only = Server::new(|request, _| (200, claiming(request, 1)));
    for server in [opaque, first_only] {
        let (auth, _) = hub(vec![Login::Anonymous]);
        assert!(crowd(&auth, &server, 21, many).await.iter().all(Result::is_ok));
        // The second request is used for its first scope.
        assert_eq!(scopes_of(&server), [&[1, 10][..], &[1; 19]].concat());
    }
    // One that refuses them costs that request, once.
    let server = Server::new(|request, n| match request.url.as_str().matches("scope=").count() {
        1 => (200, format!(r#"{{"token":"t{n}"}}"#)),
        _ => (401, String::new()),
    });
    let (auth, _) = hub(vec![password("pw")]);
    assert!(crowd(&auth, &server, 21, many).await.iter().all(Result::is_ok));
    assert_eq!(scopes_of(&server), [&[1, 10][..], &[1; 20]].concat());
}

#[tokio::test(start_paused = true)]
async fn a_repository_that_is_not_granted_does_not_end_the_requests_for_several() {
    let (auth, _) = hub(vec![Login::Anonymous]);
    let server = Server::new(|request, _| (200, claiming(request, usize::MAX)));
    let named = |n| if n == 1 { Scopes::pull("private/one") } else { many(n) };
    assert!(crowd(&auth, &server, 21, named).await.iter().all(Result::is_ok));
    assert_eq!(scopes_of(&server), [1, 10, 1, 10]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_of_several_repositories_is_replaced_by_one_of_its_own() {
    let (auth, _) = hub(vec![Login::Anonymous]);
    let server = Server::new(|request, _| (200, claiming(request, usize::MAX)));
    let headers = crowd(&auth, &server, 3, many).await;
    assert_eq!(scopes_of(&server), [1, 2]);
    let insufficient = format!(r#"{HUB},error="insufficient_scope""#);
    challenged(&auth, &insufficient, &many(2), headers[2].as_ref().ok(), &server).await.unwrap();
    assert!(crowd(&auth, &server, 5, |n| many(n + 10)).await.iter().all(Result::is_ok));
    assert_eq!(scopes_of(&server), [1, 2, 1, 1, 1, 1, 1, 1]);
}
