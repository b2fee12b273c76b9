//! Faults, throttling and what becomes of requests that they strike. Time is Tokio's and paused.

use std::time::Duration;

use managed_identity_emulator::http::{HeaderName, HeaderValue, StatusCode};
use managed_identity_emulator::{Emulator, Fault, RateLimit, Source};
use tokio::time::{Instant, timeout};

use crate::client::{Answer, app_service, exchange_raw, imds, imds_target, try_send};
use crate::{VAULT, emulator};

const HOUR: Duration = Duration::from_secs(3600);

/// A token request that may stay without an answer.
async fn try_imds(emulator: &Emulator) -> Option<Answer> {
    try_send(emulator, "GET", &imds_target(VAULT, ""), &[("metadata", "true")], "").await
}

#[tokio::test]
async fn a_reply_is_replaced_as_often_as_the_fault_says() {
    let emulator = emulator();
    let retry_after = (HeaderName::from_static("retry-after"), HeaderValue::from_static("7"));
    emulator.add_fault(
        Fault::reply(StatusCode::TOO_MANY_REQUESTS, "busy")
            .header(retry_after.0, retry_after.1)
            .times(2),
    );
    for (status, body) in [(429, Some("busy")), (429, Some("busy")), (200, None)] {
        let answer = try_imds(&emulator).await.unwrap();
        assert_eq!(answer.status, status);
        if let Some(body) = body {
            assert_eq!(
                (answer.body.as_slice(), answer.header("retry-after")),
                (body.as_bytes(), Some("7"))
            );
        }
    }
}

#[tokio::test]
async fn a_header_is_added_to_the_documented_reply_or_takes_the_place_of_its_own() {
    let emulator = emulator();
    let html = (
        HeaderName::from_static("content-type"),
        HeaderValue::from_static("text/html"),
    );
    let request_id = (
        HeaderName::from_static("x-ms-request-id"),
        HeaderValue::from_static("1"),
    );
    emulator.add_fault(
        Fault::delay(Duration::ZERO)
            .header(html.0, html.1)
            .header(request_id.0, request_id.1),
    );
    let answer = imds(&emulator, VAULT, "").await;
    let types: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| name == "content-type")
        .collect();
    assert_eq!((answer.status, types.len()), (200, 1));
    assert_eq!(
        (answer.header("content-type"), answer.header("x-ms-request-id")),
        (Some("text/html"), Some("1"))
    );
}

#[tokio::test]
async fn a_fault_strikes_only_its_source_and_resource() {
    let emulator = emulator();
    emulator.add_fault(Fault::reply(StatusCode::GONE, "").on(Source::Imds).for_resource(VAULT));
    assert_eq!(imds(&emulator, VAULT, "").await.status, 410);
    assert_eq!(imds(&emulator, "https://storage.azure.com", "").await.status, 200);
    assert_eq!(app_service(&emulator, VAULT, "").await.status, 200);
    assert_eq!(
        imds(&emulator, VAULT, "").await.status,
        410,
        "without a number it stays"
    );
    emulator.clear_faults();
    assert_eq!(imds(&emulator, VAULT, "").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_reply_is_late_but_right() {
    let emulator = emulator();
    emulator.add_fault(Fault::delay(HOUR));
    let start = Instant::now();
    let answer = imds(&emulator, VAULT, "").await;
    assert!(start.elapsed() >= HOUR);
    assert_eq!((answer.status, &answer.json()["resource"]), (200, &VAULT.into()));
}

#[tokio::test(start_paused = true)]
async fn a_hanging_reply_never_comes_and_its_request_ends_when_the_client_leaves() {
    let emulator = emulator();
    emulator.add_fault(Fault::hang());
    {
        let mut request = Box::pin(timeout(HOUR, try_imds(&emulator)));
        tokio::select! {
            () = emulator.wait_for_requests(1) => {}
            _ = &mut request => panic!("there is no answer yet"),
        }
        assert_eq!(emulator.stats().in_flight, 1);
        assert!(request.await.is_err());
    }
    while emulator.stats().in_flight > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(emulator.requests()[0].status, None);
}

#[tokio::test]
async fn a_closed_connection_carries_no_answer() {
    let emulator = emulator();
    emulator.add_fault(Fault::close().times(1));
    assert!(try_imds(&emulator).await.is_none());
    assert!(try_imds(&emulator).await.is_some());
    assert_eq!(
        emulator
            .requests()
            .iter()
            .map(|request| request.status)
            .collect::<Vec<_>>(),
        [None, Some(200)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_dripped_body_takes_an_interval_per_byte_and_arrives_whole() {
    let emulator = emulator();
    emulator.add_fault(Fault::drip(Duration::from_secs(60)));
    let start = Instant::now();
    let answer = imds(&emulator, VAULT, "").await;
    let intervals = u32::try_from(answer.body.len()).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(60) * intervals);
    assert_eq!(
        answer.header("content-length"),
        Some(answer.body.len().to_string().as_str())
    );
    assert_eq!(answer.json()["token_type"], "Bearer");
}

#[tokio::test]
async fn an_endless_body_is_the_documented_one_and_spaces_in_chunks() {
    let emulator = emulator();
    emulator.add_fault(Fault::endless(1_000_000));
    let answer = imds(&emulator, VAULT, "").await;
    assert_eq!(
        (answer.header("transfer-encoding"), answer.header("content-length")),
        (Some("chunked"), None)
    );
    let body = unchunked(&answer.body);
    assert_eq!(body.len(), 1_000_000);
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(json["token_type"], "Bearer");
    assert_eq!(body.last(), Some(&b' '));
}

#[tokio::test]
async fn a_truncated_body_stops_short_of_its_length() {
    let emulator = emulator();
    for (after_bytes, length) in [(0, 4), (2, 4), (3, 4), (4, 5), (100, 101)] {
        emulator.clear_faults();
        let fault = serde_json::json!({"body": "body", "truncate": {"after_bytes": after_bytes}});
        crate::client::control(&emulator, "POST", "faults", &fault).await;
        let answer = imds(&emulator, VAULT, "").await;
        let promised: usize = answer.header("content-length").unwrap().parse().unwrap();
        assert_eq!(
            (promised, answer.body.as_slice()),
            (length, &b"body"[..after_bytes.min(4)]),
            "{after_bytes}"
        );
    }
    emulator.clear_faults();
    emulator.add_fault(Fault::truncate(20));
    let answer = imds(&emulator, VAULT, "").await;
    assert_eq!((answer.status, answer.body.len()), (200, 20));
}

#[tokio::test]
async fn requests_beyond_the_documented_concurrency_are_throttled() {
    let emulator = emulator();
    emulator.configure(|settings| settings.rate_limit = Some(RateLimit::default()));
    emulator.add_fault(Fault::hang().on(Source::Imds).times(5));
    let hanging: Vec<_> = (0..5)
        .map(|_| {
            let address = emulator.listening();
            tokio::spawn(async move {
                let target = imds_target(VAULT, "");
                let request = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nmetadata: true\r\n\r\n");
                crate::client::exchange_raw(address, request.as_bytes()).await
            })
        })
        .collect();
    emulator.wait_for_requests(5).await;
    let answer = imds(&emulator, VAULT, "").await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
    assert_eq!(
        answer.json()["error_description"],
        "Temporarily throttled, too many requests"
    );
    assert_eq!(
        app_service(&emulator, VAULT, "").await.status,
        200,
        "App Service has no such limit"
    );
    assert_eq!(emulator.stats().max_in_flight, 6);
    hanging.into_iter().for_each(|task| task.abort());
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_documented_rate_are_throttled_until_the_second_is_over() {
    let emulator = emulator();
    emulator.configure(|settings| {
        settings.rate_limit = Some(RateLimit {
            requests_per_second: 2,
            concurrent: 5,
        })
    });
    for (pause_ms, status) in [(0, 200), (0, 200), (0, 429), (1000, 200)] {
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        assert_eq!(imds(&emulator, VAULT, "").await.status, status);
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 2 + size + 2..];
    }
}

#[tokio::test]
async fn what_no_http_library_would_send_is_sent() {
    let emulator = emulator();
    let target = imds_target(VAULT, "");
    let request = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nmetadata: true\r\nconnection: close\r\n\r\n");
    let exchange = async |fault: Fault| {
        emulator.add_fault(fault.times(1));
        exchange_raw(emulator.listening(), request.as_bytes()).await
    };
    assert_eq!(
        exchange(Fault::raw("SSH-2.0-emulator\r\n")).await,
        b"SSH-2.0-emulator\r\n"
    );
    assert_eq!(exchange(Fault::reset()).await, b"");

    let header = exchange(Fault::endless_header(100_000)).await;
    assert!(header.starts_with(b"HTTP/1.1 200 OK\r\nx-endless: xxx") && header.ends_with(b"x"));
    assert!(header.len() > 100_000 && header.len() < 100_100, "{}", header.len());

    let flood = String::from_utf8(exchange(Fault::interim_replies(5000)).await).unwrap();
    assert_eq!(flood.matches("HTTP/1.1 103 Early Hints\r\n\r\n").count(), 5000);
    let last = flood.rsplit("\r\n\r\n").next().unwrap();
    assert!(
        flood.contains("HTTP/1.1 200 OK\r\n") && last.contains("access_token"),
        "{last}"
    );

    let statuses: Vec<_> = emulator.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [None, None, None, Some(200)]);
    assert_eq!(emulator.stats().in_flight, 0);
}
