//! TLS for probes of kind `https`.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};

use crate::{config::model::Tls, health::ProbeError};

/// Agrees on TLS with the server. Its name is that of `host`, or the address that is probed.
pub(super) async fn connect<'a>(
    stream: &'a mut TcpStream,
    host: &str,
    address: IpAddr,
    tls: Tls,
) -> Result<TlsStream<&'a mut TcpStream>, ProbeError> {
    let config = match tls {
        Tls::Any => unverified(),
        Tls::Verified => verified()?,
    };
    let name = name(host).unwrap_or(ServerName::IpAddress(address.into()));
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| match error.raw_os_error() {
        Some(_) => error.into(),
        None => ProbeError::Tls(error.to_string()),
    })
}

/// The name in a `Host`, without the port.
fn name(host: &str) -> Option<ServerName<'static>> {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    ServerName::try_from(name.to_owned()).ok()
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    // All versions that are built in work with the provider that is built in.
    #[expect(clippy::expect_used, reason = "a mistake at build time, which the tests find")]
    ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().expect("versions")
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(ring::default_provider())).clone()
}

fn unverified() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let make = || {
        let any = Arc::new(Anyone(provider()));
        Arc::new(builder().dangerous().with_custom_certificate_verifier(any).with_no_client_auth())
    };
    CONFIG.get_or_init(make).clone()
}

/// The configuration that asks this machine's roots, which are read once.
fn verified() -> Result<Arc<ClientConfig>, ProbeError> {
    static CONFIG: OnceLock<Option<Arc<ClientConfig>>> = OnceLock::new();
    let make = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        (!roots.is_empty()).then(|| Arc::new(builder().with_root_certificates(roots).with_no_client_auth()))
    };
    CONFIG.get_or_init(make).clone().ok_or_else(|| {
        ProbeError::NoWay("this machine has no root certificates, which `verify = true` needs".to_owned())
    })
}

/// Takes any certificate, if only the server holds its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_found_in_a_host() {
        for (host, expected) in [
            ("www.example.org", "www.example.org"),
            ("www.example.org:8443", "www.example.org"),
            ("192.0.2.1:8443", "192.0.2.1"),
            ("[2001:db8::1]:8443", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
        ] {
            assert_eq!(name(host).map(|name| name.to_str().into_owned()).as_deref(), Some(expected));
        }
        assert_eq!(name("-.."), None);
    }

    #[test]
    fn configurations_can_be_made() {
        unverified();
        // Without roots it says so.
        let _ = verified();
    }
}
