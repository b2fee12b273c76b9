//! What is made of replies, good and bad.

use super::*;

#[tokio::test]
async fn redirects_are_replies() {
    let elsewhere = Server::start([Act::ok("no")]).await;
    for status in [
        "301 Moved",
        "302 Found",
        "303 See Other",
        "307 Temporary",
        "308 Permanent",
    ] {
        let location = elsewhere.url("/");
        let reply = format!("HTTP/1.1 {status}\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
        let server = Server::start([Act::Reply(reply.into())]).await;
        let client = client(&server, OutboundConfig::default());
        let response = client
            .send(get(&server.url("/")), RequestOptions::default())
            .await
            .unwrap();
        assert_eq!(response.status().as_str(), &status[..3]);
        assert_eq!(response.headers()["location"], location);
        assert_eq!(server.requests().len(), 1);
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn bodies_come_as_they_were_sent() {
    for (head, body) in [
        (
            "Content-Length: 4\r\nContent-Encoding: gzip\r\n",
            b"\x1f\x8b\x08\x00".as_slice(),
        ),
        ("Content-Length: 2\r\nContent-Type: application/json\r\n", b"\xff\x00"),
        ("Content-Length: 0\r\n", b""),
    ] {
        let reply = [b"HTTP/1.1 200 OK\r\n", head.as_bytes(), b"\r\n", body].concat();
        let server = Server::start([Act::Reply(reply)]).await;
        let client = client(&server, OutboundConfig::default());
        let (_, found) = fetch(&client, &server.url("/"), RequestOptions::default())
            .await
            .unwrap();
        assert_eq!(found, body, "{head}");
    }
}

#[tokio::test]
async fn connections_are_used_again() {
    let server = Server::start([Act::ok("1"), Act::ok("2")]).await;
    let client = client(&server, OutboundConfig::default());
    for body in ["1", "2"] {
        let (_, found) = fetch(&client.clone(), &server.url("/"), RequestOptions::default())
            .await
            .unwrap();
        assert_eq!(found, body);
    }
    assert_eq!((server.connections(), server.requests().len()), (1, 2));
}

#[tokio::test]
async fn a_connection_that_the_server_has_closed_is_replaced() {
    let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1".to_vec();
    let server = Server::start([Act::Close(reply), Act::ok("2")]).await;
    let client = client(&server, OutboundConfig::default());
    for body in ["1", "2"] {
        let (_, found) = fetch(&client, &server.url("/"), RequestOptions::default())
            .await
            .unwrap();
        assert_eq!(found, body);
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn giving_up_closes_the_connection() {
    // In the middle of the body.
    let server = Server::start([Act::Hold(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1".to_vec())]).await;
    let client_of_body = client(&server, OutboundConfig::default());
    drop(
        client_of_body
            .send(get(&server.url("/")), RequestOptions::default())
            .await
            .unwrap(),
    );
    server.until_closed().await;
    // Before the reply.
    let server = Server::start([Act::Hold(Vec::new())]).await;
    let client = client(&server, OutboundConfig::default());
    let options = RequestOptions {
        first_byte_timeout: Some(SHORT),
        ..RequestOptions::default()
    };
    client.send(get(&server.url("/")), options).await.unwrap_err();
    server.until_closed().await;
}

#[tokio::test]
async fn bodies_have_a_limit() {
    let config = OutboundConfig {
        response_body_limit: 1000,
        ..OutboundConfig::default()
    };
    let of = |bytes: usize| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n{}",
            "x".repeat(bytes)
        )
    };
    let server = Server::start([Act::Reply(of(1000).into())]).await;
    let (_, body) = fetch(
        &client(&server, config.clone()),
        &server.url("/"),
        RequestOptions::default(),
    )
    .await
    .unwrap();
    assert_eq!(body.len(), 1000);

    let endless = Act::Flood(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
        format!("64\r\n{}\r\n", "x".repeat(100)).into(),
    );
    let unframed = Act::Flood(b"HTTP/1.0 200 OK\r\n\r\n".to_vec(), vec![b'x'; 4096]);
    for act in [Act::Reply(of(1001).into()), endless, unframed] {
        let (error, code) = failure(act, config.clone(), RequestOptions::default()).await;
        assert!(
            matches!(error, OutboundError::BodyTooLarge { limit: 1000, .. }),
            "{error:?}"
        );
        assert_eq!(code, "HttpResponseBodySize(Some(1000))");
    }
}

#[tokio::test]
async fn a_body_that_declares_too_much_is_not_waited_for() {
    for length in ["1048577", "9223372036854775807"] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let server = Server::start([Act::Hold(head.into())]).await;
        let client = client(&server, OutboundConfig::default());
        let error = client
            .send(get(&server.url("/")), RequestOptions::default())
            .await
            .unwrap_err();
        assert!(
            matches!(error, OutboundError::BodyTooLarge { limit: 1_048_576, .. }),
            "{error:?}"
        );
        server.until_closed().await;
    }
}

#[tokio::test]
async fn heads_have_a_limit() {
    let endless_fields = Act::Flood(b"HTTP/1.1 200 OK\r\n".to_vec(), b"x: 0123456789\r\n".repeat(100));
    let endless_field = Act::Flood(b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'x'; 4096]);
    let endless_status = Act::Flood(b"HTTP/1.1 200 ".to_vec(), vec![b'x'; 4096]);
    let fields = "x: 1\r\n".repeat(65);
    let many = Act::Reply(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n").into());
    for act in [endless_fields, endless_field, endless_status, many] {
        let (error, code) = failure(act, OutboundConfig::default(), RequestOptions::default()).await;
        assert!(
            matches!(
                error,
                OutboundError::HeadTooLarge {
                    bytes: 65536,
                    fields: 64,
                    ..
                }
            ),
            "{error:?}"
        );
        assert_eq!(code, "HttpResponseHeaderSectionSize(Some(65536))");
    }
    for (bytes, fits) in [(32 * 1024, true), (256 * 1024, false)] {
        let reply = format!(
            "HTTP/1.1 200 OK\r\nx: {}\r\nContent-Length: 0\r\n\r\n",
            "x".repeat(bytes)
        );
        let server = Server::start([Act::Hold(reply.into())]).await;
        let client = client(&server, OutboundConfig::default());
        let fetched = fetch(&client, &server.url("/"), RequestOptions::default()).await;
        assert_eq!(fetched.is_ok(), fits, "{bytes}: {fetched:?}");
    }
    // A limit below what the HTTP library can do is raised, and not a panic.
    let config = OutboundConfig {
        response_head_limit: 1,
        ..OutboundConfig::default()
    };
    let server = Server::start([Act::ok("1")]).await;
    assert!(
        fetch(&client(&server, config), &server.url("/"), RequestOptions::default())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn replies_that_break_off_are_incomplete() {
    for reply in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
    ] {
        let act = Act::Close(reply.as_bytes().to_vec());
        let (error, code) = failure(act, OutboundConfig::default(), RequestOptions::default()).await;
        assert!(matches!(error, OutboundError::BrokenOff { .. }), "{reply:?}: {error:?}");
        assert_eq!(code, "HttpResponseIncomplete", "{reply:?}");
    }
}

#[tokio::test]
async fn what_follows_the_declared_length_is_not_part_of_the_body() {
    let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let server = Server::start([Act::Hold(reply.to_vec()), Act::ok("good")]).await;
    let client = client(&server, OutboundConfig::default());
    for body in ["{}", "good"] {
        let (_, found) = fetch(&client, &server.url("/"), RequestOptions::default())
            .await
            .unwrap();
        assert_eq!(found, body);
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_reset_in_the_middle_is_a_lost_connection() {
    let server = Server::start([Act::Reset(
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345".to_vec(),
    )])
    .await;
    let client = client(&server, OutboundConfig::default());
    let response = client
        .send(get(&server.url("/")), RequestOptions::default())
        .await
        .unwrap();
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "12345");
    server.go();
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            OutboundError::ConnectionLost {
                kind: std::io::ErrorKind::ConnectionReset,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(matches!(WasiError::from(error), WasiError::ConnectionTerminated));
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn what_is_not_http_1_is_a_protocol_error() {
    for reply in [
        b"SSH-2.0-OpenSSH_9.6\r\n".as_slice(),
        b"<html></html>\r\n\r\n",
        // HTTP/2: a server's preface is a SETTINGS frame (RFC 9113 section 3.4).
        b"\0\0\0\x04\0\0\0\0\0",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/0.9 200 OK\r\n\r\n",
        // A TLS alert: handshake_failure (RFC 8446 section 6).
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ] {
        let shown = String::from_utf8_lossy(reply);
        let (error, code) = failure(
            Act::Hold(reply.to_vec()),
            OutboundConfig::default(),
            RequestOptions::default(),
        )
        .await;
        assert!(matches!(error, OutboundError::NotHttp { .. }), "{shown:?}: {error:?}");
        assert_eq!(code, "HttpProtocolError", "{shown:?}");
    }
    let endless_extension = Act::Flood(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;".to_vec(),
        b"x".repeat(4096),
    );
    let endless_trailers = Act::Flood(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n".to_vec(),
        b"x: 0123456789\r\n".repeat(100),
    );
    for act in [endless_extension, endless_trailers] {
        let (error, code) = failure(act, OutboundConfig::default(), RequestOptions::default()).await;
        assert!(matches!(error, OutboundError::NotHttp { .. }), "{error:?}");
        assert_eq!(code, "HttpProtocolError");
    }
}

#[tokio::test]
async fn bytes_that_add_up_to_no_reply_are_cut_off() {
    let interim = Act::Flood(Vec::new(), b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n".repeat(20));
    let zeros = Act::Flood(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
        b"0".repeat(4096),
    );
    for act in [interim, zeros] {
        let (error, code) = failure(act, OutboundConfig::default(), RequestOptions::default()).await;
        assert!(matches!(error, OutboundError::Flood { .. }), "{error:?}");
        assert!(code.starts_with("HttpResponseBodySize"), "{code}");
    }
}

#[tokio::test]
async fn silence_before_the_reply_ends_in_time() {
    let options = RequestOptions {
        first_byte_timeout: Some(SHORT),
        ..RequestOptions::default()
    };
    for act in [
        Act::Hold(Vec::new()),
        Act::Hold(b"HTTP/1.1 200 OK\r\n".to_vec()),
        Act::Hold(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
    ] {
        let (error, code) = failure(act, OutboundConfig::default(), options).await;
        assert!(
            matches!(error, OutboundError::NoReply { after: SHORT, .. }),
            "{error:?}"
        );
        assert_eq!(code, "HttpResponseTimeout");
    }
}

#[tokio::test]
async fn silence_in_the_body_ends_in_time() {
    let options = RequestOptions {
        between_bytes_timeout: Some(SHORT),
        ..RequestOptions::default()
    };
    for reply in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
    ] {
        let act = Act::Hold(reply.as_bytes().to_vec());
        let (error, code) = failure(act, OutboundConfig::default(), options).await;
        assert!(
            matches!(error, OutboundError::Stalled { after: SHORT, .. }),
            "{reply:?}: {error:?}"
        );
        assert_eq!(code, "ConnectionReadTimeout");
    }
}

#[tokio::test]
async fn an_exchange_that_never_ends_ends_in_time() {
    let config = OutboundConfig {
        exchange_timeout: SHORT,
        // More than comes in that time, and an end if it were forgotten.
        response_body_limit: 64 * 1024 * 1024,
        ..OutboundConfig::default()
    };
    let drip = Act::Flood(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
        b"1\r\nx\r\n".to_vec(),
    );
    for act in [drip, Act::Hold(Vec::new())] {
        let (error, code) = failure(act, config.clone(), RequestOptions::default()).await;
        assert!(
            matches!(error, OutboundError::TooSlow { after: SHORT, .. }),
            "{error:?}"
        );
        assert_eq!(code, "HttpResponseTimeout");
    }
}

#[tokio::test]
async fn a_component_may_ask_for_less_time_and_not_for_more() {
    let config = OutboundConfig {
        first_byte_timeout: SHORT,
        between_bytes_timeout: SHORT,
        ..OutboundConfig::default()
    };
    let options = |time| RequestOptions {
        connect_timeout: Some(time),
        first_byte_timeout: Some(time),
        between_bytes_timeout: Some(time),
    };
    for time in [LONG, Duration::MAX] {
        let (error, _) = failure(Act::Hold(Vec::new()), config.clone(), options(time)).await;
        assert!(
            matches!(error, OutboundError::NoReply { after: SHORT, .. }),
            "{error:?}"
        );
    }
    // No time at all is too little, and no panic.
    let (error, code) = failure(
        Act::Hold(Vec::new()),
        OutboundConfig::default(),
        options(Duration::ZERO),
    )
    .await;
    assert!(
        matches!(
            error,
            OutboundError::ConnectTimeout { .. } | OutboundError::NoReply { .. }
        ),
        "{error:?}"
    );
    assert!(code.ends_with("Timeout"), "{code}");
    let server = Server::start([Act::ok("{}")]).await;
    let forever = OutboundConfig {
        connect_timeout: Duration::MAX,
        first_byte_timeout: Duration::MAX,
        between_bytes_timeout: Duration::MAX,
        exchange_timeout: Duration::MAX,
        idle_timeout: Duration::MAX,
        ..OutboundConfig::default()
    };
    assert!(
        fetch(&client(&server, forever), &server.url("/"), RequestOptions::default())
            .await
            .is_ok()
    );
}
