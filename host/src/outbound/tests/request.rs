//! What is sent, and what is not.

use super::*;

#[tokio::test]
async fn the_request_is_written_from_what_was_checked() {
    let server = Server::start([Act::ok("{}")]).await;
    let request = Request::get(server.url("/token?resource=https%3A%2F%2Fvault.azure.net#fragment"))
        .header("metadata", "true")
        .header("content-length", "0")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = client(&server, OutboundConfig::default())
        .send(request, RequestOptions::default())
        .await
        .unwrap();
    assert_eq!(
        whole(response).await.unwrap(),
        (StatusCode::OK, Bytes::from_static(b"{}"))
    );
    assert_eq!(
        server.requests(),
        [format!(
            "GET /token?resource=https%3A%2F%2Fvault.azure.net HTTP/1.1\r\nmetadata: true\r\nhost: {}\r\n\r\n",
            server.address
        )]
    );
}

#[tokio::test]
async fn a_posted_body_is_sent_with_its_length() {
    let server = Server::start([Act::ok("{}")]).await;
    let client = client(&server, OutboundConfig::default());
    // As a component streams it: the length is not known beforehand.
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(
        ["a=", "b"].map(|part| Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from(part)))),
    ));
    let request = Request::post(server.url("/token"))
        .header("content-length", "7")
        .body(body)
        .unwrap();
    client.send(request, RequestOptions::default()).await.unwrap();
    assert_eq!(
        server.requests(),
        [format!(
            "POST /token HTTP/1.1\r\nhost: {}\r\ncontent-length: 3\r\n\r\na=b",
            server.address
        )]
    );
}

#[tokio::test]
async fn a_request_body_has_a_limit_and_get_has_none() {
    let server = Server::start([Act::ok("{}")]).await;
    let config = OutboundConfig {
        request_body_limit: 4,
        ..OutboundConfig::default()
    };
    let client = client(&server, config);
    let options = RequestOptions::default();
    assert!(client.send(post(&server.url("/"), "1234"), options).await.is_ok());
    let error = client.send(post(&server.url("/"), "12345"), options).await.unwrap_err();
    assert!(
        matches!(error, OutboundError::RequestTooLarge { limit: 4 }),
        "{error:?}"
    );
    let request = Request::get(server.url("/")).body(Full::from("1")).unwrap();
    let error = client.send(request, options).await.unwrap_err();
    assert!(
        matches!(error, OutboundError::RequestTooLarge { limit: 0 }),
        "{error:?}"
    );
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_request_body_that_never_ends_or_fails_is_not_sent() {
    let server = Server::start([Act::ok("{}")]).await;
    let client = client(&server, OutboundConfig::default());
    let options = RequestOptions {
        first_byte_timeout: Some(SHORT),
        ..RequestOptions::default()
    };
    type Frame = Result<http_body::Frame<Bytes>, WasiError>;
    let endless = http_body_util::StreamBody::new(futures_util::stream::pending::<Frame>());
    let error = client
        .send(Request::post(server.url("/")).body(endless).unwrap(), options)
        .await
        .unwrap_err();
    assert!(matches!(error, OutboundError::RequestBody(_)), "{error:?}");
    let failing = [Frame::Err(WasiError::HttpRequestBodySize(Some(1)))];
    let failing = http_body_util::StreamBody::new(futures_util::stream::iter(failing));
    let error = client
        .send(Request::post(server.url("/")).body(failing).unwrap(), options)
        .await
        .unwrap_err();
    // The component's own error comes back to it.
    assert!(matches!(
        WasiError::from(error),
        WasiError::HttpRequestBodySize(Some(1))
    ));
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_refused_connection_says_so() {
    // Bound, so that nobody else gets the port, and not listened to.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}/", socket.local_addr().unwrap());
    let policy = EndpointPolicy::from_iter([Endpoint::from_environment(&url).unwrap()]);
    let client = Outbound::new(policy, OutboundConfig::default());
    let error = fetch(&client, &url, RequestOptions::default()).await.unwrap_err();
    assert!(matches!(error, OutboundError::NotConnected { .. }), "{error:?}");
    assert!(error.to_string().contains(url.trim_end_matches('/')), "{error}");
    assert!(matches!(WasiError::from(error), WasiError::ConnectionRefused));
}

#[tokio::test]
async fn a_name_with_a_public_address_is_denied_at_the_connection() {
    let url = "http://localhost.example/token";
    let resolver = Scripted::new(&["8.8.8.8", "2001:4860:4860::8888"]);
    let policy = EndpointPolicy::from_iter([Endpoint::from_environment(url).unwrap()]);
    let client = Outbound::with_resolver(policy, OutboundConfig::default(), resolver.clone());
    let error = fetch(&client, &format!("{url}?key=hunter2"), RequestOptions::default())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "The request GET http://localhost.example/token was not sent: it would go to the public address 8.8.8.8, \
         2001:4860:4860::8888; if that is meant, permit it with --allow-endpoint http://localhost.example."
    );
    assert!(matches!(
        client.last_denial().unwrap().reason,
        DenialReason::Address { .. }
    ));
    assert!(matches!(WasiError::from(error), WasiError::HttpRequestDenied));
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn addresses_are_checked_each_time_a_connection_is_made() {
    let reply = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1";
    let server = Server::start([Act::Close(reply.to_vec())]).await;
    let url = format!("http://rebound.example:{}/", server.address.port());
    let policy = EndpointPolicy::from_iter([Endpoint::from_environment(&url).unwrap()]);
    let resolver = Scripted::new(&["127.0.0.1"]);
    let client = Outbound::with_resolver(policy, OutboundConfig::default(), resolver.clone());
    assert!(fetch(&client, &url, RequestOptions::default()).await.is_ok());
    resolver.answer(&["8.8.8.8"]);
    let error = fetch(&client, &url, RequestOptions::default()).await.unwrap_err();
    assert!(matches!(error, OutboundError::Denied(_)), "{error:?}");
    assert_eq!(server.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_component_may_ask_for_less_time_to_connect() {
    let url = "http://slow.example/";
    let policy = EndpointPolicy::from_iter([Endpoint::from_environment(url).unwrap()]);
    let client = Outbound::with_resolver(
        policy,
        OutboundConfig::default(),
        Arc::new(super::connector::tests::Silent),
    );
    for (wish, after) in [
        (None, Duration::from_secs(2)),
        (Some(LONG), Duration::from_secs(2)),
        (Some(SHORT), SHORT),
    ] {
        let start = tokio::time::Instant::now();
        let options = RequestOptions {
            connect_timeout: wish,
            ..RequestOptions::default()
        };
        let error = fetch(&client, url, options).await.unwrap_err();
        assert!(
            matches!(error, OutboundError::ConnectTimeout { after: found, .. } if found == after),
            "{error:?}"
        );
        assert!(
            start.elapsed() - after < Duration::from_millis(2),
            "{:?}",
            start.elapsed()
        );
        assert!(matches!(WasiError::from(error), WasiError::ConnectionTimeout));
    }
}

#[tokio::test]
async fn fields_that_are_the_hosts_are_denied() {
    let server = Server::start([Act::ok("{}")]).await;
    let client = client(&server, OutboundConfig::default());
    let mut hooks = OutboundHooks::new(client.clone());
    let filter = hooks.forbidden_header_filter();
    for (name, is_hosts) in [
        ("host", true),
        ("Connection", true),
        ("keep-alive", true),
        ("transfer-encoding", true),
        ("upgrade", true),
        ("http2-settings", true),
        ("proxy-authorization", true),
        ("Proxy-Anything", true),
        ("X-Forwarded-For", true),
        ("x-forwarded-host", true),
        ("forwarded", true),
        ("expect", true),
        ("te", true),
        ("trailer", true),
        ("cookie", true),
        ("metadata", false),
        ("x-identity-header", false),
        ("secret", false),
        ("authorization", false),
        ("content-type", false),
        ("content-length", false),
        ("user-agent", false),
    ] {
        let name: http::HeaderName = name.parse().unwrap();
        assert_eq!(filter(&name), is_hosts, "{name}");
        assert_eq!(hooks.is_forbidden_header(&name), is_hosts, "{name}");
        let value = if name == "content-length" { "0" } else { "x" };
        let request = Request::get(server.url("/"))
            .header(&name, value)
            .body(Empty::<Bytes>::new())
            .unwrap();
        match client.send(request, RequestOptions::default()).await {
            Ok(response) => {
                whole(response).await.unwrap();
                assert!(!is_hosts, "{name}");
            }
            Err(OutboundError::Denied(denial)) => {
                assert!(is_hosts, "{name}");
                assert_eq!(denial.reason, DenialReason::HeaderField(name));
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
    assert_eq!(server.requests().len(), 7);
}

/// What `wasi:http` does with its hooks.
async fn through_hooks(client: &Outbound, request: Request<WasiBody>) -> Result<Response<WasiBody>, WasiError> {
    let mut hooks = OutboundHooks::new(client.clone());
    let sending = hooks.send_request(request, None, Box::new(std::future::ready(Ok(()))));
    let (response, rest) = Box::into_pin(sending).await?;
    // 0.3 polls it once, and starts a task only if it is not ready.
    assert!(
        futures_util::FutureExt::now_or_never(Box::into_pin(rest))
            .unwrap()
            .is_ok()
    );
    Ok(response)
}

fn wasi_get(uri: &str) -> Request<WasiBody> {
    Request::get(uri)
        .body(Empty::new().map_err(|never| match never {}).boxed_unsync())
        .unwrap()
}

#[tokio::test]
async fn components_send_through_the_hooks() {
    let server = Server::start([
        Act::ok("{}"),
        Act::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1".to_vec()),
        Act::Close(b"".to_vec()),
    ])
    .await;
    let client = client(&server, OutboundConfig::default());
    let response = through_hooks(&client, wasi_get(&server.url("/"))).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "{}");
    let response = through_hooks(&client, wasi_get(&server.url("/"))).await.unwrap();
    assert!(matches!(
        response.into_body().collect().await,
        Err(WasiError::HttpResponseIncomplete)
    ));
    let error = through_hooks(&client, wasi_get(&server.url("/"))).await.unwrap_err();
    assert!(matches!(error, WasiError::HttpResponseIncomplete), "{error:?}");
    for uri in ["http://evil.example/", "https://127.0.0.1/", "ftp://127.0.0.1/", "/"] {
        let error = through_hooks(&client, wasi_get(uri)).await.unwrap_err();
        assert!(matches!(error, WasiError::HttpRequestDenied), "{uri}: {error:?}");
    }
    let mut hooks = OutboundHooks::new(client);
    assert!(!hooks.set_host_header());
    assert_eq!(hooks.default_scheme(), None);
}

/// Keeps the fields of each event.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Events {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!(" {field}={value:?}"));
            }
        }
        let mut text = Text(format!("{} {}", event.metadata().level(), event.metadata().target()));
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// Runs `work` and gives all events of it and of the libraries below, at all levels.
fn events_of(work: impl Future<Output = ()>) -> Vec<String> {
    let events = Events::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tracing::subscriber::with_default(events.clone(), || runtime.block_on(work));
    let events = events.0.lock().unwrap();
    events.clone()
}

#[test]
fn a_denial_is_an_event_without_query_or_fields() {
    let events = events_of(async {
        let client = Outbound::new(EndpointPolicy::default(), OutboundConfig::default());
        assert_eq!(client.last_denial(), None);
        let request = Request::get("http://user:hunter2@169.254.169.254/metadata?key=hunter2")
            .header("x-identity-header", "hunter2")
            .body(Empty::<Bytes>::new())
            .unwrap();
        client.send(request, RequestOptions::default()).await.unwrap_err();
        assert_eq!(client.last_denial().unwrap().url, "http://169.254.169.254/metadata");
    });
    let denials: Vec<_> = events
        .iter()
        .filter(|event| event.contains("managed_identity::outbound"))
        .collect();
    assert_eq!(
        denials,
        [
            "WARN managed_identity::outbound message=request denied method=GET url=http://169.254.169.254/metadata \
             reason=has user information before its host"
        ]
    );
    assert!(events.iter().all(|event| !event.contains("hunter2")), "{events:?}");
}

#[test]
fn nothing_of_an_exchange_is_logged() {
    let events = events_of(async {
        let broken = b"HTTP/1.1 200 OK\r\nx: hunter2\r\nContent-Length: 100\r\n\r\nhunter2".to_vec();
        let garbage = b"hunter2\r\n\r\n".to_vec();
        let server = Server::start([Act::ok("hunter2"), Act::Close(broken), Act::Close(garbage)]).await;
        let client = client(&server, OutboundConfig::default());
        for succeeds in [true, false, false] {
            let mut request = post(&server.url("/token?resource=hunter2"), "assertion=hunter2");
            request
                .headers_mut()
                .insert("x-identity-header", "hunter2".parse().unwrap());
            let result = match client.send(request, RequestOptions::default()).await {
                Ok(response) => whole(response).await,
                Err(error) => Err(error),
            };
            match result {
                Ok(_) => assert!(succeeds),
                Err(error) => assert!(
                    !succeeds && !format!("{error} {error:?}").contains("hunter2"),
                    "{error:?}"
                ),
            }
        }
    });
    assert_eq!(
        events
            .iter()
            .filter(|event| event.contains("managed_identity::outbound"))
            .count(),
        2,
        "{events:?}"
    );
    assert!(events.iter().all(|event| !event.contains("hunter2")), "{events:?}");
}
