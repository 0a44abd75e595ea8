//! Wrong passwords, closed repositories, and what is said of them.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_wrong_password_is_sent_once_a_run() {
    let (auth, purse) = hub(vec![password("hunter2")]);
    let server = Server::always(401, r#"{"details":"incorrect username or password"}"#);
    for error in crowd(&auth, &server, 50, many).await.into_iter().map(Result::unwrap_err) {
        insta::allow_duplicates! {
            insta::assert_snapshot!(error, @"upstream: log in to docker.io: 401 the token server https://auth.docker.io/token does not accept the credentials `hub`: incorrect username or password (check the credential set `hub`)");
        }
        assert_eq!(error.kind(), Kind::Unauthorized);
    }
    assert_eq!((server.count(), purse.renewals.load(Ordering::Relaxed)), (1, 1));
    assert!(auth.authorization(&Scopes::pull("later"), &*server).await.is_err());
    assert_eq!(server.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_renewed_login_is_used_by_all() {
    let (auth, purse) = hub(vec![password("old"), password("new")]);
    let server = Server::new(|request, n| match &request.authorization {
        Some(header) if *header == login::basic(&password("new")).unwrap() => (200, format!(r#"{{"token":"t{n}"}}"#)),
        _ => (401, String::new()),
    });
    assert!(crowd(&auth, &server, 5, many).await.into_iter().all(|header| header.is_ok()));
    // The old one once, then the new one for each of five.
    assert_eq!((server.count(), purse.renewals.load(Ordering::Relaxed)), (6, 1));
}

#[tokio::test(start_paused = true)]
async fn a_login_that_ran_out_is_renewed_again() {
    let (auth, purse) = hub(vec![password("p0"), password("p1"), password("p2")]);
    // Each password is good for one request.
    let server = Server::new(|request, n| {
        let good = login::basic(&password(&format!("p{}", n / 2)));
        if request.authorization == good { (200, format!(r#"{{"token":"t{n}"}}"#)) } else { (401, String::new()) }
    });
    challenged(&auth, HUB, &many(0), None, &server).await.unwrap();
    for n in 1..3 {
        tokio::time::advance(Duration::from_secs(12 * 60 * 60)).await;
        auth.authorization(&many(n), &*server).await.unwrap();
    }
    assert_eq!((server.count(), purse.renewals.load(Ordering::Relaxed)), (5, 2));
}

#[tokio::test(start_paused = true)]
async fn one_forbidden_repository_does_not_condemn_the_account() {
    let (auth, purse) = hub(vec![password("pw")]);
    let server = Server::new(|request, n| match request.url.query().unwrap_or_default().contains("secret") {
        true => (403, r#"{"errors":[{"code":"DENIED","message":"access forbidden"}]}"#.to_owned()),
        false => (200, format!(r#"{{"token":"t{n}"}}"#)),
    });
    let secret = Scopes::pull("their/secret");
    for _ in 0..3 {
        let error = challenged(&auth, HUB, &secret, None, &server).await.unwrap_err();
        insta::allow_duplicates! {
            insta::assert_snapshot!(error, @"upstream: log in to docker.io: 403 the token server https://auth.docker.io/token gives no token for `their/secret`, asked as `hub`: access forbidden (check the name, and what the credential set `hub` may do)");
        }
    }
    // The repository, then nothing in particular to try the login; after that it is known.
    assert_eq!(server.count(), 2);
    auth.authorization(&one(0), &*server).await.unwrap();
    assert!(auth.authorization(&Scopes::pull("another/secret"), &*server).await.is_err());
    assert_eq!((server.count(), purse.renewals.load(Ordering::Relaxed)), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_forbids_everything_means_the_login() {
    let (auth, _) = hub(vec![password("hunter2")]);
    let server = Server::always(403, "denied");
    assert!(crowd(&auth, &server, 20, many).await.into_iter().all(|header| header.unwrap_err().kind() == Kind::Unauthorized));
    assert_eq!(server.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_ended_identity_token_is_a_wrong_login() {
    let (auth, _) = hub(vec![identity("refresh")]);
    let server = Server::always(400, r#"{"error":"invalid_grant","error_description":"refresh expired"}"#);
    let error = challenged(&auth, HUB, &one(0), None, &server).await.unwrap_err();
    assert!(error.kind() == Kind::Unauthorized && error.message().contains("[redacted] expired"), "{error}");
    assert!(auth.authorization(&many(1), &*server).await.is_err());
    assert_eq!(server.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_to_check_the_name_or_log_in() {
    let (auth, _) = hub(vec![Login::Anonymous]);
    let server = Server::always(403, "<html>no</html>");
    let error = challenged(&auth, HUB, &one(0), None, &server).await.unwrap_err();
    insta::assert_snapshot!(error, @"upstream: log in to docker.io: 403 the token server https://auth.docker.io/token gives no token for `library/alpine`, asked without credentials (check the name; if it is private, add [[credentials]] for docker.io or `docker login docker.io`)");
    challenged(&auth, HUB, &one(0), None, &server).await.unwrap_err();
    assert_eq!(server.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn basic_is_answered_with_the_password_and_a_token_preferred() {
    let (auth, _) = hub(vec![password("pw")]);
    let server = Server::generous();
    let basic = login::basic(&password("pw")).unwrap();
    assert_eq!(challenged(&auth, "Basic realm=x", &one(0), None, &server).await.unwrap(), basic);
    assert_eq!(auth.authorization(&many(1), &*server).await.unwrap(), Some(basic));
    // The password was tried once; it goes with every request from now on.
    assert_eq!(server.lines(), ["GET https://registry-1.docker.io/v2/ [ann:pw]"]);
    let both = auth.challenged(&headers(&["Basic realm=x", HUB]), &one(0), None, &*server).await.unwrap();
    assert_eq!(both, "Bearer t2");
    let broken = headers(&["Basic realm=x, Bearer realm=nonsense"]);
    assert_eq!(auth.challenged(&broken, &one(0), None, &*server).await.unwrap(), login::basic(&password("pw")).unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_basic_password_is_tried_by_one_and_renewed_before_it_is_given_up() {
    let (auth, purse) = hub(vec![password("old"), password("new")]);
    let server = Server::always(401, "");
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let (auth, server) = (Arc::clone(&auth), Arc::clone(&server));
            tokio::spawn(async move { challenged(&auth, "Basic", &many(n), None, &server).await })
        })
        .collect();
    for task in tasks {
        let error = task.await.unwrap().unwrap_err();
        assert!(error.message().contains("does not accept the credentials `hub`"), "{error}");
    }
    let root = "GET https://registry-1.docker.io/v2/";
    assert_eq!(server.lines(), [format!("{root} [ann:old]"), format!("{root} [ann:new]")]);
    assert_eq!(purse.renewals.load(Ordering::Relaxed), 1);
    assert!(auth.authorization(&one(0), &*server).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_basic_password_that_ran_out_is_renewed_for_all_who_used_it() {
    let (auth, purse) = hub(vec![password("old"), password("new")]);
    let server = Server::always(200, "{}");
    let old = challenged(&auth, "Basic", &one(0), None, &server).await.unwrap();
    let new = challenged(&auth, "Basic", &one(0), Some(&old), &server).await.unwrap();
    assert_eq!(new, login::basic(&password("new")).unwrap());
    assert_eq!(challenged(&auth, "Basic", &many(1), Some(&old), &server).await.unwrap(), new);
    // Each was tried once.
    assert_eq!((server.count(), purse.renewals.load(Ordering::Relaxed)), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_repository_closed_to_a_good_basic_password_does_not_condemn_it() {
    let (auth, _) = hub(vec![password("pw")]);
    let server = Server::always(200, "{}");
    let basic = challenged(&auth, "Basic", &one(0), None, &server).await.unwrap();
    let error = challenged(&auth, "Basic", &one(0), Some(&basic), &server).await.unwrap_err();
    assert!(error.message().contains("does not let us into `library/alpine`, asked as `hub`"), "{error}");
    assert!(auth.authorization(&one(0), &*server).await.is_err());
    assert_eq!(auth.authorization(&many(1), &*server).await.unwrap(), Some(basic));
}

#[tokio::test(start_paused = true)]
async fn no_secret_is_shown_even_if_the_server_repeats_it() {
    let encoded = login::basic(&password("hunter2")).unwrap().to_str().unwrap().trim_start_matches("Basic ").to_owned();
    let body = format!(r#"{{"errors":[{{"message":"no hunter2, and no {encoded} either"}}]}}"#);
    let (auth, _) = hub(vec![password("hunter2")]);
    let server = Server::new(move |_, _| (401, body.clone()));
    let error = challenged(&auth, HUB, &one(0), None, &server).await.unwrap_err();
    let request = server.asked.lock()[0].clone();
    let form = TokenRequest { form: Some(vec![("refresh_token".to_owned(), "hunter2".to_owned())]), ..request.clone() };
    let answer = TokenAnswer { status: 200, body: Bytes::from_static(b"hunter2"), challenges: vec![] };
    for shown in [
        error.to_string(),
        format!("{error:?}"),
        format!("{request:?} {form:?} {answer:?}"),
        format!("{:?} {:?}", password("hunter2"), identity("hunter2")),
        format!("{:?}", auth.account.login().await.unwrap()),
    ] {
        assert!(!shown.contains("hunter2") && !shown.contains(&encoded), "{shown}");
    }
}
