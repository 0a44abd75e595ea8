//! What is sent where, and what answers mean.

use super::*;

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_before_the_first_challenge_and_everything_before_the_request_after_it() {
    let (auth, purse) = hub(vec![Login::Anonymous]);
    let server = Server::generous();
    let alpine = Scopes::pull("library/alpine");
    assert_eq!(auth.authorization(&alpine, &*server).await.unwrap(), None);
    assert_eq!((server.count(), purse.reads.load(Ordering::Relaxed)), (0, 0));
    let first = challenged(&auth, HUB, &alpine, None, &server).await.unwrap();
    assert!(first.is_sensitive());
    assert_eq!(first, "Bearer t1");
    assert_eq!(auth.authorization(&alpine, &*server).await.unwrap(), Some(first));
    // Another repository: its token comes first, without a 401.
    assert_eq!(auth.authorization(&Scopes::pull("grafana/loki"), &*server).await.unwrap().unwrap(), "Bearer t2");
    assert_eq!(
        server.lines(),
        [
            "GET https://auth.docker.io/token?service=registry.docker.io&scope=repository:library/alpine:pull",
            "GET https://auth.docker.io/token?service=registry.docker.io&scope=repository:grafana/loki:pull",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn each_login_asks_in_its_way() {
    let user_token = Login::Basic { username: "<token>".to_owned(), password: SecretString::from("refresh") };
    let acr = Login::Basic { username: "00000000-0000-0000-0000-000000000000".to_owned(), password: SecretString::from("refresh") };
    let with_query = r#"Bearer realm="https://auth.docker.io/token?a=b",service="s""#;
    for (login, challenge, scopes, expected) in [
        (
            password("pw"),
            HUB,
            Scopes::pull("a"),
            "GET https://auth.docker.io/token?service=registry.docker.io&scope=repository:a:pull [ann:pw]",
        ),
        (
            acr,
            HUB,
            Scopes::pull("a"),
            "GET https://auth.docker.io/token?service=registry.docker.io&scope=repository:a:pull [00000000-0000-0000-0000-000000000000:refresh]",
        ),
        (Login::Anonymous, with_query, Scopes::none(), "GET https://auth.docker.io/token?a=b&service=s"),
        (Login::Anonymous, "Bearer realm=https://auth.docker.io/token", Scopes::none(), "GET https://auth.docker.io/token"),
        (
            Login::Anonymous,
            HUB,
            Scopes::mount("z", "a"),
            "GET https://auth.docker.io/token?service=registry.docker.io&scope=repository:z:pull,push&scope=repository:a:pull",
        ),
        (
            identity("refresh"),
            HUB,
            Scopes::mount("z", "a"),
            "POST https://auth.docker.io/token grant_type=refresh_token&client_id=larder&refresh_token=refresh&service=registry.docker.io&scope=repository:z:pull,push repository:a:pull",
        ),
        (
            user_token,
            HUB,
            Scopes::pull("a"),
            "POST https://auth.docker.io/token grant_type=refresh_token&client_id=larder&refresh_token=refresh&service=registry.docker.io&scope=repository:a:pull",
        ),
    ] {
        let (auth, _) = hub(vec![login]);
        let server = Server::generous();
        assert_eq!(challenged(&auth, challenge, &scopes, None, &server).await.unwrap(), "Bearer t1");
        assert_eq!(server.lines(), [expected]);
    }
}

#[tokio::test(start_paused = true)]
async fn where_post_is_not_spoken_an_identity_token_goes_by_get_from_then_on() {
    for (status, body) in [(404, ""), (405, ""), (400, r#"{"error":"unsupported_grant_type"}"#)] {
        let (auth, _) = hub(vec![identity("refresh")]);
        let server = Server::new(move |request, n| match &request.form {
            Some(_) => (status, body.to_owned()),
            None => (200, format!(r#"{{"access_token":"t{n}"}}"#)),
        });
        assert_eq!(challenged(&auth, HUB, &Scopes::pull("a"), None, &server).await.unwrap(), "Bearer t2");
        auth.authorization(&Scopes::pull("b"), &*server).await.unwrap();
        let methods: Vec<_> = server.lines().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(methods, ["POST", "GET", "GET"]);
        assert!(server.line(2).ends_with("[<token>:refresh]"));
    }
}

#[tokio::test(start_paused = true)]
async fn scopes_without_a_repository_are_asked_for_always_and_another_repositorys_with_this_one() {
    let purse = purse(vec![Login::Anonymous]);
    let auth = authenticator("public.ecr.aws", "https://public.ecr.aws/", &purse);
    let server = Server::generous();
    let aws = r#"Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws repository:samalba/my-app:pull""#;
    challenged(&auth, aws, &Scopes::pull("x/y"), None, &server).await.unwrap();
    auth.authorization(&Scopes::pull("z"), &*server).await.unwrap();
    assert_eq!(
        server.lines(),
        [
            "GET https://public.ecr.aws/token/?service=public.ecr.aws&scope=repository:x/y:pull&scope=repository:samalba/my-app:pull&scope=aws",
            "GET https://public.ecr.aws/token/?service=public.ecr.aws&scope=repository:z:pull&scope=aws",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_kind_of_request_needs_is_remembered_for_that_kind() {
    let (auth, _) = hub(vec![password("pw")]);
    let server = Server::generous();
    let tags = |repository: &str| Scopes::pull(repository).to(Purpose::Tags);
    let pull = challenged(&auth, HUB, &Scopes::pull("a/b"), None, &server).await.unwrap();
    assert_eq!(auth.authorization(&tags("a/b"), &*server).await.unwrap().unwrap(), pull, "the same token, as long as it will do");
    let more = format!(r#"{HUB},scope="repository:a/b:metadata_read",error="insufficient_scope""#);
    let listing = challenged(&auth, &more, &tags("a/b"), Some(&pull), &server).await.unwrap();
    assert_eq!(auth.authorization(&tags("a/b"), &*server).await.unwrap().unwrap(), listing);
    // Another repository: a pull as before, a list with the right that lists need.
    auth.authorization(&Scopes::pull("c/d"), &*server).await.unwrap();
    auth.authorization(&tags("c/d"), &*server).await.unwrap();
    let url = "GET https://auth.docker.io/token?service=registry.docker.io&scope=repository";
    let asked = ["a/b:pull", "a/b:pull,metadata_read", "c/d:pull", "c/d:pull,metadata_read"].map(|scope| format!("{url}:{scope} [ann:pw]"));
    assert_eq!(server.lines(), asked);
    // Refused once more, it is refused for lists alone.
    assert!(challenged(&auth, &more, &tags("a/b"), Some(&listing), &server).await.is_err());
    assert!(auth.authorization(&Scopes::pull("a/b"), &*server).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_login_that_nobody_asked_for_is_tried_if_the_root_asks() {
    let (auth, _) = hub(vec![password("pw")]);
    let server = Server::with_challenges(401, &[HUB]);
    assert_eq!(auth.unasked(&one(0), &*server).await.unwrap().unwrap(), "Bearer t2");
    assert_eq!(server.line(0), "GET https://registry-1.docker.io/v2/");
    assert!(server.line(1).ends_with("library/alpine:pull [ann:pw]"));
    // Once it is known, the login comes by itself.
    assert_eq!(auth.unasked(&one(0), &*server).await.unwrap(), None);
    for (status, login, asked) in [(200, password("pw"), 1), (401, Login::Anonymous, 0)] {
        let (auth, _) = hub(vec![login]);
        let server = Server::with_challenges(status, &[]);
        for _ in 0..2 {
            assert_eq!(auth.unasked(&one(0), &*server).await.unwrap(), None);
        }
        assert_eq!(server.count(), asked);
    }
}

#[tokio::test(start_paused = true)]
async fn other_answers_of_a_token_server() {
    for (status, body, kind, part) in [
        (429, r#"{"message":"slow down"}"#, Kind::Limited, "is rate limiting us: slow down"),
        (500, "", Kind::Unavailable, "fails"),
        (404, "", Kind::Refused, "gives no token"),
        (302, "", Kind::Refused, "gives no token"),
        (200, "<html>", Kind::Unavailable, "its answer is no JSON"),
        (200, "{}", Kind::Unavailable, "its answer holds no token"),
    ] {
        let (auth, _) = hub(vec![Login::Anonymous]);
        let error = challenged(&auth, HUB, &one(0), None, &Server::always(status, body)).await.unwrap_err();
        assert!(error.kind() == kind && error.message().contains(part), "{status} {body}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn challenges_of_no_use_say_why() {
    for (challenges, part) in [
        (vec![], "without saying how"),
        (vec!["Negotiate"], "larder does not have: Negotiate"),
        (vec![r#"Bearer realm="a realm""#], "its token server `a realm` is no URL"),
        (vec!["Bearer"], "is no URL"),
    ] {
        let (auth, _) = hub(vec![password("pw")]);
        let error = auth.challenged(&headers(&challenges), &one(0), None, &*Server::generous()).await.unwrap_err();
        assert!(error.kind() == Kind::Unauthorized && error.message().contains(part), "{challenges:?}: {error}");
    }
    let (auth, _) = hub(vec![Login::Anonymous]);
    let error = challenged(&auth, "Basic", &one(0), None, &Server::generous()).await.unwrap_err();
    assert!(error.message().contains("wants a user name and password"), "{error}");
    // Once it has said how, a 401 that does not is understood.
    let (auth, _) = hub(vec![Login::Anonymous]);
    let server = Server::generous();
    let first = challenged(&auth, HUB, &one(0), None, &server).await.unwrap();
    assert_eq!(auth.challenged(&[], &one(0), Some(&first), &*server).await.unwrap(), "Bearer t2");
}

#[tokio::test(start_paused = true)]
async fn passwords_go_to_the_registrys_own_token_server_only() {
    let bearer = |realm: &str| format!(r#"Bearer realm="{realm}",service="s""#);
    for (host, endpoint, realm, with_password, anonymously) in [
        ("docker.io", "https://registry-1.docker.io/", "https://auth.docker.io/token", true, true),
        ("docker.io", "https://mirror.corp.example/", "https://auth.docker.io/token", true, true),
        ("docker.io", "https://mirror.corp.example/", "https://mirror.corp.example:8443/token", false, true),
        ("docker.io", "https://mirror.corp.example:8443/", "https://mirror.corp.example:8443/token", true, true),
        ("named.example.com", "https://named.example.com/", "https://named.example.com:5001/token", true, true),
        ("named.example.com", "https://named.example.com/", "https://named.example.com:5002/token", false, true),
        ("r.example.com:5000", "https://mirror.corp.example/", "https://r.example.com:5000/t", true, true),
        ("r.example.com:5000", "https://r.example.com:5000/", "https://r.example.com/t", false, true),
        ("registry.gitlab.com", "https://registry.gitlab.com/", "https://gitlab.com/jwt/auth", true, true),
        ("r.example.com:5000", "https://r.example.com:5000/", "https://auth.example.com/t", true, true),
        ("r.example.com", "https://r.example.com/", "https://auth.docker.io/token", false, true),
        ("r.example.com", "https://r.example.com/", "https://r.example.com.attacker.net/t", false, true),
        ("a.azurecr.io", "https://a.azurecr.io/", "https://b.azurecr.io/oauth2/token", false, true),
        ("r.example.com", "https://r.example.com/", "http://r.example.com/t", false, false),
        ("r.example.com", "https://r.example.com/", "https://127.0.0.1/t", false, false),
        ("r.example.com", "https://r.example.com/", "https://[::ffff:10.0.0.1]/t", false, false),
        ("r.example.com", "https://r.example.com/", "https://169.254.169.254/t", false, false),
        ("r.example.com", "https://r.example.com/", "https://u:p@r.example.com/t", false, false),
        ("r.example.com", "https://r.example.com/", "file:///etc/passwd", false, false),
        ("127.0.0.1:5000", "http://127.0.0.1:5000/", "http://127.0.0.1:5001/t", false, true),
        ("127.0.0.1:5000", "http://127.0.0.1:5000/", "http://localhost:5001/t", true, true),
        ("127.0.0.1:5000", "http://127.0.0.1:5000/", "http://169.254.169.254/t", false, false),
    ] {
        for (login, expected) in [(password("pw"), with_password), (identity("tk"), with_password), (Login::Anonymous, anonymously)] {
            let auth = authenticator(host, endpoint, &purse(vec![login.clone()]));
            let server = Server::generous();
            let result = challenged(&auth, &bearer(realm), &one(0), None, &server).await;
            assert_eq!((result.is_ok(), server.count()), (expected, usize::from(expected)), "{host} {realm} {login:?}");
            if let Err(error) = result {
                assert_eq!(error.kind(), Kind::Untrusted, "{error}");
            }
        }
    }
    let auth = authenticator("r.example.com", "https://r.example.com/", &purse(vec![password("pw")]));
    let error = challenged(&auth, &bearer("https://auth.attacker.net/t?q=1"), &one(0), None, &Server::generous()).await.unwrap_err();
    insta::assert_snapshot!(error, @"upstream: log in to r.example.com: the registry asks for the password of r.example.com at https://auth.attacker.net/t, which is not part of it; not sent (if the images come from `auth.attacker.net`, name that host in the list; without credentials for r.example.com it is asked anonymously)");
}

#[tokio::test(start_paused = true)]
async fn a_password_goes_to_another_port_of_its_host_only_if_the_configuration_names_it() {
    // The fixture's configuration names named.example.com:5001.
    let bearer = |realm: &str| format!(r#"Bearer realm="{realm}",service="s""#);
    for (port, is_sent) in [(5001, true), (5002, false)] {
        let auth = authenticator("named.example.com", "https://named.example.com/", &purse(vec![password("pw")]));
        let server = Server::generous();
        let result = challenged(&auth, &bearer(&format!("https://named.example.com:{port}/token")), &one(0), None, &server).await;
        assert_eq!((result.is_ok(), server.count()), (is_sent, usize::from(is_sent)), "{port}");
    }
    let auth = authenticator("r.example.com", "https://r.example.com/", &purse(vec![password("pw")]));
    let other_port = challenged(&auth, &bearer("https://r.example.com:9/t"), &one(0), None, &Server::generous()).await.unwrap_err();
    insta::assert_snapshot!(other_port, @r#"upstream: log in to r.example.com: the registry asks for the password of r.example.com at https://r.example.com:9/t, another port of its host; not sent (if its token server is there, name it in the configuration: [registry."r.example.com:9"])"#);
}
