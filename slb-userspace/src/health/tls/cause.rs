//! Explains TLS failures.

use std::{ffi::c_int, io};

use openssl::ssl::{self, SslRef};

use crate::health::ProbeError;

/// OpenSSL's `ERR_LIB_SSL`.
const LIBRARY: c_int = 20;
/// OpenSSL's reason for an alert of the peer is the alert's number plus this (`SSL_AD_REASON_OFFSET`).
const ALERTS: c_int = 1_000;
/// OpenSSL's reasons (`sslerr.h`).
const CERTIFICATE_VERIFY_FAILED: c_int = 134;
const HTTP_REQUEST: c_int = 156;
const PACKET_LENGTH_TOO_LONG: c_int = 198;
const UNSUPPORTED_PROTOCOL: c_int = 258;
const WRONG_VERSION_NUMBER: c_int = 267;
const UNEXPECTED_EOF: c_int = 294;

/// Alerts (RFC 8446, section 6).
const HANDSHAKE_FAILURE: c_int = 40;
const CERTIFICATE_REQUIRED: c_int = 116;
/// Alerts about certificates: no_certificate, bad, unsupported, unknown, unknown CA, access denied.
const OF_CERTIFICATES: [c_int; 6] = [41, 42, 43, 46, 48, 49];

/// The reason for a failed handshake.
pub(super) fn of(error: &ssl::Error, ssl: &SslRef) -> ProbeError {
    // A server that refuses after it has shown its certificate demands one of this client.
    let is_shown = ssl.peer_certificate().is_some();
    if let Some(io) = error.io_error() {
        return broken(io);
    }
    match reason(error) {
        Some((CERTIFICATE_VERIFY_FAILED, _)) => {
            tls(format!("the certificate is not trusted: {}", ssl.verify_result().error_string()))
        }
        Some((code, _))
            if is_shown
                && (code - ALERTS == HANDSHAKE_FAILURE || OF_CERTIFICATES.contains(&(code - ALERTS))) =>
        {
            ProbeError::ClientCertificate
        }
        Some((code, text)) => named(code, text),
        None => tls("the server closed the connection during the handshake".to_owned()),
    }
}

/// The reason for a failure after the handshake, if it is an alert. In TLS 1.3 a server rejects a missing client
/// certificate only after the client has finished its handshake.
pub(in crate::health) fn of_established(error: io::Error) -> ProbeError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<ssl::Error>()).and_then(reason) {
        Some((code, text)) => named(code, text),
        None => error.into(),
    }
}

/// Code and text of the first error of OpenSSL's TLS library.
fn reason(error: &ssl::Error) -> Option<(c_int, &str)> {
    let first = error.ssl_error()?.errors().iter().find(|error| error.library_code() == LIBRARY)?;
    Some((first.reason_code(), first.reason().unwrap_or("unknown error")))
}

fn named(code: c_int, text: &str) -> ProbeError {
    tls(match code {
        WRONG_VERSION_NUMBER | PACKET_LENGTH_TOO_LONG | HTTP_REQUEST => {
            "what the server answers is not TLS".to_owned()
        }
        UNSUPPORTED_PROTOCOL => "the server's version of TLS is not supported here".to_owned(),
        UNEXPECTED_EOF => "the server closed the connection during the handshake".to_owned(),
        alert if alert == ALERTS + CERTIFICATE_REQUIRED => return ProbeError::ClientCertificate,
        alert if (ALERTS..ALERTS + 256).contains(&alert) => in_words(alert - ALERTS),
        _ => text.to_owned(),
    })
}

/// Explains an alert of the server.
fn in_words(alert: c_int) -> String {
    let words = match alert {
        HANDSHAKE_FAILURE => "it supports no version, cipher or group that was offered (handshake_failure)",
        70 => "it supports none of TLS 1.0 to 1.3 (protocol_version)",
        71 => "what was offered is too weak for it (insufficient_security)",
        80 => "it has an error of its own (internal_error)",
        112 => "it does not know the requested name; set `host` (unrecognized_name)",
        120 => "it speaks no HTTP/1 (no_application_protocol)",
        41..=49 => return format!("the server refuses the certificate of its client (alert {alert})"),
        _ => return format!("the server refuses the handshake (alert {alert})"),
    };
    format!("the server refuses the handshake: {words}")
}

/// The reason for a broken connection.
fn broken(error: &io::Error) -> ProbeError {
    let copy = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
    match ProbeError::from(copy) {
        ProbeError::Reset => tls("the server reset the connection during the handshake".to_owned()),
        ProbeError::Failed(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            tls("the server closed the connection during the handshake".to_owned())
        }
        other => other,
    }
}

fn tls(words: String) -> ProbeError {
    ProbeError::Tls(words)
}
