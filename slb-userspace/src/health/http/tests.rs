//! Tests with real servers on the loopback address.

use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    io::AsyncBufReadExt as _,
    io::BufReader,
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::health::{ProbePaths, probe::probe, testing::target};
use slb_config::model::{CertificateCheck, CheckKind, ExpectedStatus, HttpMethod};

const GENEROUS: Duration = Duration::from_secs(30);

fn check() -> HttpCheck {
    HttpCheck {
        method: HttpMethod::Head,
        path: "/".to_owned(),
        host: None,
        expect: vec![ExpectedStatus::Class(2)],
        tls: None,
    }
}

/// Probes a server that answers any request with `answer`. Returns the result, the request, and how the connection
/// ended.
async fn probed(
    check: HttpCheck,
    answer: &[u8],
) -> (Result<(), ProbeError>, String, std::io::Result<usize>, SocketAddr) {
    probed_within(GENEROUS, check, answer).await
}

async fn probed_within(
    timeout: Duration,
    check: HttpCheck,
    answer: &[u8],
) -> (Result<(), ProbeError>, String, std::io::Result<usize>, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut request = Vec::new();
        // A TLS client hello ends no line: the server answers its first bytes.
        while !request.ends_with(b"\r\n\r\n") && !request.starts_with(&[22]) {
            let part = stream.fill_buf().await.unwrap().to_vec();
            stream.consume(part.len());
            request.extend(part);
        }
        // The probe may reset the connection before everything is sent.
        let _ = stream.get_mut().write_all(answer).await;
        let _ = stream.get_mut().shutdown().await;
        let end = stream.read(&mut [0; 1]).await;
        (String::from_utf8_lossy(&request).into_owned(), end)
    };
    let target = target(address, CheckKind::Http(check), timeout);
    let paths = ProbePaths::default();
    let (probed, (request, end)) = tokio::join!(probe(&target, &paths), serve);
    (probed, request, end, address)
}

#[tokio::test]
async fn http_request_follows_the_check_settings() {
    let (probed, request, end, address) = probed(check(), b"HTTP/1.1 204 No Content\r\n\r\n").await;
    probed.unwrap();
    assert_eq!(
        request,
        format!(
            "HEAD / HTTP/1.1\r\nHost: {address}\r\nUser-Agent: {USER_AGENT}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        )
    );
    // The probe does not wait for the rest of the answer.
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);

    let other = HttpCheck {
        method: HttpMethod::Get,
        path: "/healthz?full=1".to_owned(),
        host: Some("shop.example".to_owned()),
        expect: vec![ExpectedStatus::Code(301), ExpectedStatus::Class(4)],
        tls: None,
    };
    let (probed, request, ..) = self::probed(other, b"HTTP/1.1 301 Moved\r\n\r\n").await;
    probed.unwrap();
    assert!(request.starts_with("GET /healthz?full=1 HTTP/1.1\r\nHost: shop.example\r\n"), "{request}");
}

#[tokio::test]
async fn unexpected_http_status_is_named() {
    let expect = vec![ExpectedStatus::Class(2), ExpectedStatus::Code(301)];
    let (probed, ..) =
        probed(HttpCheck { expect, ..check() }, b"HTTP/1.1 503 Busy\r\nA: b\r\n\r\nbody").await;
    let error = probed.unwrap_err();
    assert_eq!(error.to_string(), "status 503, expected 2xx, 301");
    assert!(error.blames_server());
}

#[tokio::test]
async fn missing_non_http_and_endless_answers_have_distinct_errors() {
    let (closed, ..) = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = target(listener.local_addr().unwrap(), CheckKind::Http(check()), GENEROUS);
        let paths = ProbePaths::default();
        let close = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Read first: closing a socket with unread data sends a RST.
            let _ = stream.read(&mut [0; 1_024]).await;
            drop(stream);
        };
        tokio::join!(probe(&target, &paths), close)
    };
    assert_eq!(closed.unwrap_err().to_string(), "connection closed without an answer");

    let (other, ..) = probed(check(), b"220 mail ESMTP\r\n").await;
    assert!(matches!(other.unwrap_err(), ProbeError::NotHttp(_)));

    let endless = [&b"HTTP/1.1 200 OK\r\n"[..], &b"A: b\r\n".repeat(100_000)].concat();
    let (long, ..) = probed(check(), &endless).await;
    assert!(matches!(long.unwrap_err(), ProbeError::HeadTooLong { .. }));
}

/// Answers that curl 7.88 accepts, each with its status code.
fn answers_that_curl_takes() -> Vec<(&'static str, Vec<u8>, u16)> {
    let head = |fields: &[u8]| [b"HTTP/1.1 200 OK\r\n", fields, b"\r\n"].concat();
    let field = |length: usize| [&b"X: "[..], &vec![b'x'; length - 5], b"\r\n"].concat();
    vec![
        ("line ends without CR", b"HTTP/1.1 200 OK\nA: b\n\n".to_vec(), 200),
        ("no reason", b"HTTP/1.1 200\r\n\r\n".to_vec(), 200),
        ("two spaces", b"HTTP/1.1  200  OK\r\n\r\n".to_vec(), 200),
        ("small letters", b"http/1.1 200 OK\r\n\r\n".to_vec(), 200),
        ("another alphabet", b"HTTP/1.1 200 \xe9t\xe9\r\nA: \xc3\x9f\r\n\r\n".to_vec(), 200),
        ("folded field", head(b"A: b\r\n  c\r\n\td\r\nE: f\r\n"), 200),
        ("folded first field", head(b" A: b\r\n"), 200),
        ("space before the colon", head(b"A : b\r\n"), 200),
        ("space in a name", head(b"A b: b\r\n"), 200),
        ("no name", head(b": b\r\n"), 200),
        ("control character", head(b"A: b\x01\x1f\r\n"), 200),
        ("two lengths", head(b"Content-Length: 0\r\nContent-Length: 5\r\n"), 200),
        ("100", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n".to_vec(), 204),
        ("103", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\n\r\n".to_vec(), 200),
        ("101, which was not asked for", b"HTTP/1.1 101 Switching\r\n\r\n".to_vec(), 101),
        ("6,000 fields", head(&b"A: b\r\n".repeat(6_000)), 200),
        ("a field of 20 KB", head(&field(20_000)), 200),
        ("a field of 99 KB", head(&field(99_000)), 200),
        ("270 KB of fields", head(&field(90_000).repeat(3)), 200),
        ("closed before the empty line", b"HTTP/1.1 200 OK\r\nA: b".to_vec(), 200),
        ("closed after the status", b"HTTP/1.0 200 OK\r\n".to_vec(), 200),
    ]
}

#[tokio::test]
async fn answers_that_curl_accepts_are_accepted() {
    let mut wrong = Vec::new();
    for (what, answer, status) in answers_that_curl_takes() {
        // The error names an unexpected status code.
        let expect = vec![ExpectedStatus::Code(599)];
        let short = Duration::from_secs(2);
        let (probed, ..) = probed_within(short, HttpCheck { expect, ..check() }, &answer).await;
        let error = probed.unwrap_err().to_string();
        if error != format!("status {status}, expected 599") {
            wrong.push(format!("{what}: {error}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[tokio::test]
async fn server_without_tls_is_reported() {
    let (plain, ..) =
        probed(HttpCheck { tls: Some(CertificateCheck::Any), ..check() }, b"HTTP/1.1 400 Bad\r\n\r\n").await;
    let error = plain.unwrap_err();
    assert_eq!(error.to_string(), "TLS: what the server answers is not TLS");
    assert!(error.blames_server());
}

#[tokio::test]
async fn unanswered_http_probe_times_out() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let short = Duration::from_millis(200);
    let target = target(listener.local_addr().unwrap(), CheckKind::Http(check()), short);
    let error = probe(&target, &ProbePaths::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "no answer within 200ms");
    let _accepted: TcpStream = listener.accept().await.unwrap().0;
}

#[test]
fn host_header_omits_the_default_port_of_the_scheme() {
    let of = |text: &str, tls| authority(text.parse().unwrap(), tls);
    assert_eq!(of("192.0.2.1:80", false), "192.0.2.1");
    assert_eq!(of("192.0.2.1:80", true), "192.0.2.1:80");
    assert_eq!(of("192.0.2.1:443", true), "192.0.2.1");
    assert_eq!(of("[2001:db8::1]:80", false), "[2001:db8::1]");
    assert_eq!(of("[2001:db8::1]:8080", false), "[2001:db8::1]:8080");
}
