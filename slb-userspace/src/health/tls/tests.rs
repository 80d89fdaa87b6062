//! Tests with old and new TLS servers on the loopback address, by OpenSSL's server side.

use std::{net::Ipv4Addr, sync::LazyLock, time::Duration};

use openssl::{
    asn1::Asn1Time,
    dh::Dh,
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    rsa::Rsa,
    ssl::SslContextBuilder,
    x509::X509Name,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::health::{ProbePaths, probe::probe, testing::target};
use slb_config::model::{CheckKind, ExpectedStatus, HttpCheck, HttpMethod};

const GENEROUS: Duration = Duration::from_secs(30);
/// Encoded X.509 versions: one less than their names.
const V1: i32 = 0;
const V3: i32 = 2;
const DAY: i64 = 86_400;

type Key = PKey<Private>;

static RSA: LazyLock<Key> = LazyLock::new(|| rsa(2_048));

fn rsa(bits: u32) -> Key {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

fn ec(curve: Nid) -> Key {
    let group = EcGroup::from_curve_name(curve).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

/// A self-signed certificate for `shop.example` that expires in `days`.
fn certificate(key: &Key, version: i32, digest: MessageDigest, days: i64) -> X509 {
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, "shop.example").unwrap();
    let name = name.build();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_secs()).unwrap();
    let at = |days: i64| Asn1Time::from_unix(now + days * DAY).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(version).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_not_before(&at(days - 30)).unwrap();
    builder.set_not_after(&at(days)).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.sign(key, digest).unwrap();
    builder.build()
}

/// A server with a certificate that accepts what `adjust` does not forbid.
fn server(
    key: &Key,
    certificate: &X509,
    adjust: impl FnOnce(&mut SslContextBuilder) -> Result<(), ErrorStack>,
) -> SslContext {
    let mut builder = SslContext::builder(SslMethod::tls_server()).unwrap();
    builder.set_security_level(0);
    builder.set_min_proto_version(None).unwrap();
    builder.set_cipher_list("ALL:@SECLEVEL=0").unwrap();
    builder.set_private_key(key).unwrap();
    builder.set_certificate(certificate).unwrap();
    adjust(&mut builder).unwrap();
    builder.build()
}

/// A server with an ordinary RSA certificate.
fn ordinary(adjust: impl FnOnce(&mut SslContextBuilder) -> Result<(), ErrorStack>) -> SslContext {
    server(&RSA, &certificate(&RSA, V3, MessageDigest::sha256(), 30), adjust)
}

/// Supports one TLS version only.
fn only(version: SslVersion) -> impl Fn(&mut SslContextBuilder) -> Result<(), ErrorStack> {
    move |builder| {
        builder.set_min_proto_version(Some(version))?;
        builder.set_max_proto_version(Some(version))
    }
}

/// Supports TLS 1.2 with these ciphers only.
fn ciphers(list: &'static str) -> impl Fn(&mut SslContextBuilder) -> Result<(), ErrorStack> {
    move |builder| {
        only(SslVersion::TLS1_2)(builder)?;
        builder.set_tmp_dh(&*Dh::get_2048_256()?)?;
        builder.set_cipher_list(&format!("{list}:@SECLEVEL=0"))
    }
}

/// Demands a client certificate.
fn demanding(version: SslVersion) -> impl Fn(&mut SslContextBuilder) -> Result<(), ErrorStack> {
    move |builder| {
        only(version)(builder)?;
        builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        Ok(())
    }
}

fn https(tls: CertificateCheck) -> CheckKind {
    CheckKind::Http(HttpCheck {
        method: HttpMethod::Head,
        path: "/".to_owned(),
        host: Some("shop.example:8443".to_owned()),
        expect: vec![ExpectedStatus::Class(2)],
        tls: Some(tls),
    })
}

/// Probes a server once. Returns the result and the server name (SNI) of the client.
async fn probed(context: &SslContext, kind: CheckKind) -> (Result<(), ProbeError>, Option<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = target(listener.local_addr().unwrap(), kind, GENEROUS);
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = SslStream::new(Ssl::new(context).unwrap(), stream).unwrap();
        let accepted = Pin::new(&mut stream).accept().await;
        let name = stream.ssl().servername(openssl::ssl::NameType::HOST_NAME).map(str::to_owned);
        if accepted.is_ok() && stream.read(&mut [0; 1_024]).await.is_ok() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            // Until the client resets the connection.
            let _ = stream.read(&mut [0; 1]).await;
        }
        name
    };
    let paths = ProbePaths::default();
    tokio::join!(probe(&target, &paths), serve)
}

/// Servers that the defaults of OpenSSL and curl, today's or earlier ones, connect to.
fn servers_of_many_ages() -> Vec<(&'static str, SslContext)> {
    let sha256 = MessageDigest::sha256;
    let with_key = |key: &Key| server(key, &certificate(key, V3, sha256(), 30), |_| Ok(()));
    let with_digest = |digest| server(&RSA, &certificate(&RSA, V3, digest, 30), |_| Ok(()));
    let v1 = certificate(&RSA, V1, sha256(), 30);
    let expired = certificate(&RSA, V3, sha256(), -1);
    let ed25519 = PKey::generate_ed25519().unwrap();
    vec![
        ("TLS 1.3 only", ordinary(only(SslVersion::TLS1_3))),
        ("TLS 1.2 only", ordinary(only(SslVersion::TLS1_2))),
        ("TLS 1.1 only", ordinary(only(SslVersion::TLS1_1))),
        ("TLS 1.0 only", ordinary(only(SslVersion::TLS1))),
        ("RSA key exchange", ordinary(ciphers("AES128-GCM-SHA256"))),
        ("RSA key exchange with CBC", ordinary(ciphers("AES128-SHA"))),
        ("ECDHE with CBC", ordinary(ciphers("ECDHE-RSA-AES128-SHA"))),
        ("DHE", ordinary(ciphers("DHE-RSA-AES128-GCM-SHA256"))),
        ("RSA-1024", with_key(&rsa(1_024))),
        ("P-256", with_key(&ec(Nid::X9_62_PRIME256V1))),
        ("P-384", with_key(&ec(Nid::SECP384R1))),
        ("P-521", with_key(&ec(Nid::SECP521R1))),
        ("Ed25519", server(&ed25519, &certificate(&ed25519, V3, MessageDigest::null(), 30), |_| Ok(()))),
        ("signed with SHA-1", with_digest(MessageDigest::sha1())),
        ("signed with MD5", with_digest(MessageDigest::md5())),
        ("X.509 version 1, TLS 1.3", server(&RSA, &v1, only(SslVersion::TLS1_3))),
        ("X.509 version 1, TLS 1.2", server(&RSA, &v1, only(SslVersion::TLS1_2))),
        ("expired", server(&RSA, &expired, |_| Ok(()))),
        ("group P-521 only", ordinary(|builder| builder.set_groups_list("P-521"))),
        ("group ffdhe2048 only", ordinary(|builder| builder.set_groups_list("ffdhe2048"))),
    ]
}

#[tokio::test]
async fn old_and_new_tls_servers_are_healthy_without_verify() {
    let mut failed = Vec::new();
    for (what, context) in servers_of_many_ages() {
        match probed(&context, https(CertificateCheck::Any)).await {
            (Ok(()), name) => assert_eq!(name.as_deref(), Some("shop.example"), "{what}"),
            (Err(error), _) => failed.push(format!("{what}: {error}")),
        }
    }
    assert_eq!(failed, Vec::<String>::new());
}

#[tokio::test]
async fn demand_for_a_client_certificate_is_reported() {
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let (probed, _) = probed(&ordinary(demanding(version)), https(CertificateCheck::Any)).await;
        let error = probed.unwrap_err();
        assert_eq!(
            error.to_string(),
            "TLS: the server demands a client certificate, which checks do not have; kind \"tls\" does without"
        );
        assert!(error.blames_server());
    }
}

#[tokio::test]
async fn tls_check_passes_after_the_handshake() {
    let handshake = || CheckKind::Tls(TlsCheck { host: None, verify: CertificateCheck::Any });
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        for context in [ordinary(only(version)), ordinary(demanding(version))] {
            let (probed, name) = probed(&context, handshake()).await;
            probed.unwrap();
            // An address is not sent as SNI.
            assert_eq!(name, None);
        }
    }
    // Anonymous ciphers have no certificate.
    let (anonymous, _) = probed(&ordinary(ciphers("ADH-AES128-SHA256")), handshake()).await;
    assert_eq!(
        anonymous.unwrap_err().to_string(),
        "TLS: the server refuses the handshake: it supports no version, cipher or group that was offered \
         (handshake_failure)"
    );
}

#[tokio::test]
async fn untrusted_certificate_is_refused_with_verify() {
    let host = Some("shop.example".to_owned());
    for kind in [
        https(CertificateCheck::Verified),
        CheckKind::Tls(TlsCheck { host, verify: CertificateCheck::Verified }),
    ] {
        let (probed, _) = probed(&ordinary(|_| Ok(())), kind).await;
        match probed.unwrap_err() {
            ProbeError::NoProbePath(why) => eprintln!("not verified: {why}"),
            error => {
                let text = error.to_string();
                assert!(text.starts_with("TLS: the certificate is not trusted: self"), "{text}");
                assert!(error.blames_server());
            }
        }
    }
}

/// Probes a server whose certificate is its own root. Returns whether it passes.
async fn is_trusted(name: &Name, days: i64) -> Result<(), ProbeError> {
    let certificate = certificate(&RSA, V3, MessageDigest::sha256(), days);
    let mut roots = X509StoreBuilder::new().unwrap();
    roots.add_cert(certificate.clone()).unwrap();
    let context = trusting(roots.build()).unwrap();
    let server = server(&RSA, &certificate, |_| Ok(()));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let accept = async {
        let stream = listener.accept().await.unwrap().0;
        let mut stream = SslStream::new(Ssl::new(&server).unwrap(), stream).unwrap();
        let _ = Pin::new(&mut stream).accept().await;
    };
    let connect = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        handshake(&mut stream, name.client(&context)?).await.map(drop)
    };
    tokio::join!(connect, accept).0
}

#[tokio::test]
async fn trusted_certificate_must_match_name_and_validity() {
    let shop = Name::of("shop.example:443", Ipv4Addr::LOCALHOST.into());
    is_trusted(&shop, 30).await.unwrap();
    let error = is_trusted(&Name::of("", Ipv4Addr::LOCALHOST.into()), 30).await.unwrap_err();
    assert_eq!(error.to_string(), "TLS: the certificate is not trusted: IP address mismatch");
    let error = is_trusted(&Name::of("other.example", Ipv4Addr::LOCALHOST.into()), 30).await.unwrap_err();
    assert_eq!(error.to_string(), "TLS: the certificate is not trusted: hostname mismatch");
    let error = is_trusted(&shop, -1).await.unwrap_err();
    assert_eq!(error.to_string(), "TLS: the certificate is not trusted: certificate has expired");
}

#[tokio::test]
async fn connection_that_ends_in_the_tls_handshake_is_reported() {
    for (linger, how) in [(None, "closed"), (Some(Duration::ZERO), "reset")] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = target(listener.local_addr().unwrap(), https(CertificateCheck::Any), GENEROUS);
        let end = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Read all of the client hello: closing a socket with unread data sends a RST.
            let _ = stream.read(&mut [0; 16_384]).await;
            socket2::SockRef::from(&stream).set_linger(linger).unwrap();
        };
        let paths = ProbePaths::default();
        let (probed, ()) = tokio::join!(probe(&target, &paths), end);
        let expected = format!("TLS: the server {how} the connection during the handshake");
        assert_eq!(probed.unwrap_err().to_string(), expected);
    }
}

#[tokio::test]
async fn unrecognised_server_name_is_reported() {
    let context = ordinary(|builder| {
        builder.set_servername_callback(|_, _| Err(openssl::ssl::SniError::ALERT_FATAL));
        Ok(())
    });
    let (probed, _) = probed(&context, https(CertificateCheck::Any)).await;
    let text = probed.unwrap_err().to_string();
    assert!(text.contains("does not know the requested name; set `host`"), "{text}");
}

#[test]
fn host_setting_is_parsed_as_name_or_address() {
    let probed = IpAddr::from(Ipv4Addr::LOCALHOST);
    let dns = |name: &str| Name::Dns(name.to_owned());
    let address = |text: &str| Name::Address(text.parse().unwrap());
    for (host, expected) in [
        ("www.example.org", dns("www.example.org")),
        ("www.example.org:8443", dns("www.example.org")),
        ("www.example.org.", dns("www.example.org")),
        ("under_score.example", dns("under_score.example")),
        ("192.0.2.1:8443", address("192.0.2.1")),
        ("192.0.2.1", address("192.0.2.1")),
        ("[2001:db8::1]:8443", address("2001:db8::1")),
        ("[2001:db8::1]", address("2001:db8::1")),
        ("", address("127.0.0.1")),
    ] {
        assert_eq!(Name::of(host, probed), expected);
    }
}
