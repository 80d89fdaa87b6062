//! TLS for checks of kind `https` and `tls`, with OpenSSL.
//!
//! Without `verify` a probe accepts whatever a client may accept: TLS 1.0 to 1.3, every cipher with a certificate,
//! small keys, certificates of any age and signature. With `verify` OpenSSL's own rules apply, as for curl.

mod cause;

use std::{net::IpAddr, pin::Pin, sync::OnceLock};

use openssl::{
    error::ErrorStack,
    ssl::{Ssl, SslContext, SslMethod, SslOptions, SslVerifyMode, SslVersion},
    x509::{
        X509,
        store::{X509Store, X509StoreBuilder},
    },
};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

pub(super) use self::cause::of_established;
use super::{ProbeError, path::ProbeRoute, tcp};
use slb_config::model::{CertificateCheck, TlsCheck};

/// Every cipher that authenticates with a certificate.
const ANY_CIPHER: &str = "ALL:!aNULL:!eNULL:@SECLEVEL=0";

/// Accepts servers without secure renegotiation (`SSL_OP_LEGACY_SERVER_CONNECT`).
const LEGACY_SERVER_CONNECT: SslOptions = SslOptions::from_bits_retain(1 << 2);

/// Opens a connection, makes the TLS handshake and resets the connection. A server that demands a client certificate
/// passes: it has shown its own, and serves clients that have one.
pub(super) async fn probe(route: &ProbeRoute<'_>, check: &TlsCheck) -> Result<(), ProbeError> {
    let mut connection = tcp::connect(route).await?;
    let address = connection.remote.ip();
    let host = check.host.as_deref().unwrap_or_default();
    match connect(&mut connection.stream, host, address, check.verify).await {
        Err(ProbeError::ClientCertificate) => Ok(()),
        agreed => agreed.map(drop),
    }
}

/// Makes the TLS handshake. The expected name is that of `host`, or the probed address.
pub(super) async fn connect<'a>(
    stream: &'a mut TcpStream,
    host: &str,
    address: IpAddr,
    tls: CertificateCheck,
) -> Result<SslStream<&'a mut TcpStream>, ProbeError> {
    let context = match tls {
        CertificateCheck::Any => context_without_verify()?,
        CertificateCheck::Verified => context_with_verify()?,
    };
    handshake(stream, Name::of(host, address).client(context)?).await
}

async fn handshake(stream: &mut TcpStream, ssl: Ssl) -> Result<SslStream<&mut TcpStream>, ProbeError> {
    let mut stream = SslStream::new(ssl, stream).map_err(local_error)?;
    match Pin::new(&mut stream).connect().await {
        Ok(()) => Ok(stream),
        Err(error) => Err(cause::of(&error, stream.ssl())),
    }
}

/// The name that the server's certificate must have.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    Dns(String),
    Address(IpAddr),
}

impl Name {
    /// The name in a `Host` header without the port; `address` if there is none.
    fn of(host: &str, address: IpAddr) -> Self {
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        match name.parse() {
            Ok(address) => Self::Address(address),
            Err(_) if name.is_empty() => Self::Address(address),
            Err(_) => Self::Dns(name.trim_end_matches('.').to_owned()),
        }
    }

    /// The client side of a connection to this server. An address is not sent as server name (RFC 6066, section 3).
    fn client(&self, context: &SslContext) -> Result<Ssl, ProbeError> {
        let mut ssl = Ssl::new(context).map_err(local_error)?;
        match self {
            Self::Dns(name) => ssl.set_hostname(name).and_then(|()| ssl.param_mut().set_host(name)),
            Self::Address(address) => ssl.param_mut().set_ip(*address),
        }
        .map_err(local_error)?;
        Ok(ssl)
    }
}

/// OpenSSL failed on this host before it contacted the server.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn local_error(error: ErrorStack) -> ProbeError {
    ProbeError::NoProbePath(format!("OpenSSL: {error}"))
}

fn context_without_verify() -> Result<&'static SslContext, ProbeError> {
    static CONTEXT: OnceLock<Result<SslContext, ErrorStack>> = OnceLock::new();
    let make = || {
        let mut builder = SslContext::builder(SslMethod::tls_client())?;
        // Overrides client settings of this host's openssl.cnf.
        builder.set_security_level(0);
        builder.set_min_proto_version(Some(SslVersion::TLS1))?;
        builder.set_max_proto_version(None)?;
        builder.set_cipher_list(ANY_CIPHER)?;
        builder.set_options(SslOptions::ALL | LEGACY_SERVER_CONNECT | SslOptions::IGNORE_UNEXPECTED_EOF);
        builder.set_verify(SslVerifyMode::NONE);
        Ok(builder.build())
    };
    CONTEXT.get_or_init(make).as_ref().map_err(|error| local_error(error.clone()))
}

/// The context that verifies against this host's root certificates, which are read once.
fn context_with_verify() -> Result<&'static SslContext, ProbeError> {
    static CONTEXT: OnceLock<Result<Option<SslContext>, ErrorStack>> = OnceLock::new();
    let make = || roots()?.map(trusting).transpose();
    let made = CONTEXT.get_or_init(make).as_ref().map_err(|error| local_error(error.clone()))?;
    made.as_ref().ok_or_else(|| {
        ProbeError::NoProbePath(
            "this machine has no root certificates, which `verify = true` needs".to_owned(),
        )
    })
}

fn trusting(roots: X509Store) -> Result<SslContext, ErrorStack> {
    let mut builder = SslContext::builder(SslMethod::tls_client())?;
    builder.set_cert_store(roots);
    builder.set_verify(SslVerifyMode::PEER);
    Ok(builder.build())
}

/// This host's root certificates; `None` if there are none. Entries that cannot be parsed are skipped.
fn roots() -> Result<Option<X509Store>, ErrorStack> {
    let found = rustls_native_certs::load_native_certs().certs;
    let roots: Vec<_> = found.iter().filter_map(|der| X509::from_der(der).ok()).collect();
    if roots.is_empty() {
        return Ok(None);
    }
    let mut store = X509StoreBuilder::new()?;
    for root in roots {
        store.add_cert(root)?;
    }
    Ok(Some(store.build()))
}

#[cfg(test)]
mod tests;
