//! Tests with real servers on the loopback address.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use tokio::{
    io::AsyncBufReadExt as _,
    io::BufReader,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

use super::*;
use crate::{
    config::model::{CheckKind, Method, Status, Tls},
    health::{Paths, probe::probe, testing::target},
};

const GENEROUS: Duration = Duration::from_secs(30);

fn check() -> HttpCheck {
    HttpCheck {
        method: Method::Head,
        path: "/".to_owned(),
        host: None,
        expect: vec![Status::Class(2)],
        tls: None,
    }
}

/// Probes a server that sends `answer` to whatever is asked; returns the request, too, and how the connection ended.
async fn probed(
    check: HttpCheck,
    answer: &[u8],
) -> (Result<(), ProbeError>, String, std::io::Result<usize>, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut request = Vec::new();
        // What speaks TLS ends no line: its first piece is answered.
        while !request.ends_with(b"\r\n\r\n") && !request.starts_with(&[22]) {
            let part = stream.fill_buf().await.unwrap().to_vec();
            stream.consume(part.len());
            request.extend(part);
        }
        // The other end may have had enough of it before it is all sent.
        let _ = stream.get_mut().write_all(answer).await;
        let end = stream.read(&mut [0; 1]).await;
        (String::from_utf8_lossy(&request).into_owned(), end)
    };
    let target = target(address, CheckKind::Http(check), GENEROUS);
    let paths = Paths::default();
    let (probed, (request, end)) = tokio::join!(probe(&target, &paths), serve);
    (probed, request, end, address)
}

#[tokio::test]
async fn asks_as_it_is_told() {
    let (probed, request, end, address) = probed(check(), b"HTTP/1.1 204 No Content\r\n\r\n").await;
    probed.unwrap();
    assert_eq!(
        request,
        format!(
            "HEAD / HTTP/1.1\r\nHost: {address}\r\nUser-Agent: {USER_AGENT}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        )
    );
    // What is left of the answer is not waited for.
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);

    let other = HttpCheck {
        method: Method::Get,
        path: "/healthz?full=1".to_owned(),
        host: Some("shop.example".to_owned()),
        expect: vec![Status::Code(301), Status::Class(4)],
        tls: None,
    };
    let (probed, request, ..) = self::probed(other, b"HTTP/1.1 301 Moved\r\n\r\n").await;
    probed.unwrap();
    assert!(request.starts_with("GET /healthz?full=1 HTTP/1.1\r\nHost: shop.example\r\n"), "{request}");
}

#[tokio::test]
async fn another_status_is_named() {
    let expect = vec![Status::Class(2), Status::Code(301)];
    let (probed, ..) =
        probed(HttpCheck { expect, ..check() }, b"HTTP/1.1 503 Busy\r\nA: b\r\n\r\nbody").await;
    let error = probed.unwrap_err();
    assert_eq!(error.to_string(), "status 503, expected 2xx, 301");
    assert!(error.blames_server());
}

#[tokio::test]
async fn answers_that_are_none_are_told_apart() {
    let (closed, ..) = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = target(listener.local_addr().unwrap(), CheckKind::Http(check()), GENEROUS);
        let paths = Paths::default();
        let close = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Read first: with data unread, closing is a reset.
            let _ = stream.read(&mut [0; 1_024]).await;
            drop(stream);
        };
        tokio::join!(probe(&target, &paths), close)
    };
    assert_eq!(closed.unwrap_err().to_string(), "connection closed without an answer");

    let (other, ..) = probed(check(), b"220 mail ESMTP\r\n").await;
    assert!(matches!(other.unwrap_err(), ProbeError::NotHttp(_)));

    let endless = [&b"HTTP/1.1 200 OK\r\nX: "[..], &vec![b'x'; 2 * LONGEST]].concat();
    let (long, ..) = probed(check(), &endless).await;
    assert_eq!(long.unwrap_err().to_string(), "the head of the answer is longer than 16384 bytes");
}

#[tokio::test]
async fn a_server_without_tls_is_found_out() {
    let (plain, ..) = probed(HttpCheck { tls: Some(Tls::Any), ..check() }, b"HTTP/1.1 400 Bad\r\n\r\n").await;
    let error = plain.unwrap_err();
    assert!(error.to_string().starts_with("TLS: "), "{error}");
    assert!(error.blames_server());
}

/// A server with a certificate that nobody vouches for.
fn self_signed() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["shop.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn tls_is_spoken_and_certificates_are_verified_if_wished() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let acceptor = self_signed();
    for tls in [Tls::Any, Tls::Verified] {
        let check = HttpCheck { tls: Some(tls), host: Some("shop.example:8443".to_owned()), ..check() };
        let target = target(listener.local_addr().unwrap(), CheckKind::Http(check), GENEROUS);
        let paths = Paths::default();
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.ok()?;
            let name = stream.get_ref().1.server_name().map(str::to_owned);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
            // Until the client has had enough.
            let _ = stream.read_to_end(&mut Vec::new()).await;
            name
        };
        match (tls, tokio::join!(probe(&target, &paths), serve)) {
            (Tls::Any, (probed, name)) => {
                probed.unwrap();
                assert_eq!(name.as_deref(), Some("shop.example"));
            }
            (Tls::Verified, (Err(ProbeError::NoWay(why)), _)) => eprintln!("not verified: {why}"),
            (Tls::Verified, (probed, _)) => {
                let error = probed.unwrap_err();
                assert!(error.blames_server() && error.to_string().starts_with("TLS: "), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn silence_times_out() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let short = Duration::from_millis(200);
    let target = target(listener.local_addr().unwrap(), CheckKind::Http(check()), short);
    let error = probe(&target, &Paths::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "no answer within 200ms");
    let _accepted: TcpStream = listener.accept().await.unwrap().0;
}

#[test]
fn the_port_is_named_unless_it_is_the_schemes() {
    let of = |text: &str, tls| authority(text.parse().unwrap(), tls);
    assert_eq!(of("192.0.2.1:80", false), "192.0.2.1");
    assert_eq!(of("192.0.2.1:80", true), "192.0.2.1:80");
    assert_eq!(of("192.0.2.1:443", true), "192.0.2.1");
    assert_eq!(of("[2001:db8::1]:80", false), "[2001:db8::1]");
    assert_eq!(of("[2001:db8::1]:8080", false), "[2001:db8::1]:8080");
}
