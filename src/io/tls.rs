//! TLS for listening sources and for clients, over any stream.
//!
//! Versions 1.2 and 1.3. As Flume, a client checks the certificate's chain and not its host name, and a
//! server asks for no certificate; a certificate that is itself in the trust store is trusted as it is.

use std::io;
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Io, OpenOptions, Stream};
use crate::codec::keystore::{self, KeyStore, STORE_BYTES_MAX};
use crate::component::OpenError;
use crate::config::tls::{ClientTls, Offered, ServerTls, StoreFile};

/// Accepts TLS.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

/// Connects with TLS.
#[derive(Clone)]
pub struct Connector {
    connector: TlsConnector,
    verify_host: bool,
}

impl Acceptor {
    /// [`Acceptor::open`], for a listener that may do without TLS.
    ///
    /// # Errors
    /// As there.
    pub async fn open_if(io: &Io, settings: Option<&ServerTls>) -> Result<Option<Self>, OpenError> {
        match settings {
            Some(settings) => Self::open(io, settings).await.map(Some),
            None => Ok(None),
        }
    }
    /// Reads the key store.
    ///
    /// # Errors
    /// What is wrong with the store.
    pub async fn open(io: &Io, tls: &ServerTls) -> Result<Self, OpenError> {
        let store = read_store(io, "keystore", &tls.keystore).await?;
        let shown = tls.keystore.path.display().to_string();
        let Some(identity) = store.identities.into_iter().next() else {
            return Err(OpenError::new("keystore", shown, "holds no private key")
                .hint("use the store of `keytool -genkeypair`, not a trust store"));
        };
        let (provider, versions) = provider(&tls.offered)?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .and_then(|b| b.with_no_client_auth().with_single_cert(identity.chain, identity.key))
            .map_err(|e| OpenError::new("keystore", shown, format!("cannot be used: {e}")))?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }
    /// Shakes hands with a client.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn accept(&self, stream: Box<dyn Stream>) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.0.accept(stream).await?))
    }
}

impl Connector {
    /// Reads the trust store.
    ///
    /// # Errors
    /// What is wrong with the store.
    pub async fn open(io: &Io, tls: &ClientTls) -> Result<Self, OpenError> {
        let (provider, versions) = provider(&tls.offered)?;
        let mut trusted = Vec::new();
        if tls.trust_all {
        } else if let Some(file) = &tls.truststore {
            let store = read_store(io, "truststore", file).await?;
            trusted = store.trusted;
            trusted.extend(store.identities.into_iter().filter_map(|i| i.chain.into_iter().next()));
            if trusted.is_empty() {
                let shown = file.path.display().to_string();
                return Err(OpenError::new("truststore", shown, "holds no certificate"));
            }
        } else {
            trusted = super::off_core(|| rustls_native_certs::load_native_certs().certs).await;
            if trusted.is_empty() {
                return Err(OpenError::new(
                    "truststore",
                    "",
                    "is not set, and this system has no certificates",
                )
                .hint("set truststore, or install ca-certificates"));
            }
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().cloned());
        let verifier = ChainVerifier {
            roots,
            trusted,
            trust_all: tls.trust_all,
            verify_host: tls.verify_host && !tls.trust_all,
            algorithms: provider.signature_verification_algorithms,
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|e| OpenError::new("include-cipher-suites", "", e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        let verify_host = tls.verify_host && !tls.trust_all;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), verify_host })
    }
    /// Shakes hands with a server. The host name is announced to it, and its certificate held against the name
    /// if that is wanted.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn connect(&self, host: &str, stream: Box<dyn Stream>) -> io::Result<Box<dyn Stream>> {
        let name = match ServerName::try_from(host.to_owned()) {
            // A name with an underscore, for example, can be connected to and not be announced.
            Err(_) if !self.verify_host => ServerName::try_from("localhost"),
            name => name,
        };
        let name =
            name.map_err(|e| io::Error::other(format!("{host}: no certificate can be for it ({e})")))?;
        let stream = self.connector.connect(name, stream).await.map_err(|error| explained(host, error))?;
        Ok(Box::new(stream))
    }
}

/// What a refused certificate means to an operator, and what to do about it.
fn explained(host: &str, error: io::Error) -> io::Error {
    use rustls::CertificateError as Refused;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(refused)) = inner else { return error };
    let text = match refused {
        Refused::NotValidForName => {
            format!("the certificate it shows is not for {host}; use a name it is for")
        }
        Refused::NotValidForNameContext { presented, .. } => {
            let names = presented.iter().map(|name| plain_name(name)).collect::<Vec<_>>().join(", ");
            format!(
                "the certificate it shows is for {names} and not for {host}; use one of these names, or give the server a \
                 certificate for {host}"
            )
        }
        Refused::UnknownIssuer => format!(
            "nobody who is trusted here has signed the certificate of {host}; put its certificate or its authority's into \
             the trust store (keytool -importcert), and name that by truststore or -Djavax.net.ssl.trustStore"
        ),
        Refused::Expired | Refused::ExpiredContext { .. } => {
            format!(
                "the certificate of {host} has expired; give the server a new one, or set this machine's clock"
            )
        }
        _ => return error,
    };
    io::Error::new(error.kind(), text)
}

/// A name out of a certificate, without the kind it is given with: `DnsName("h")` is `h`.
fn plain_name(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"')
}

async fn read_store(io: &Io, property: &'static str, file: &StoreFile) -> Result<KeyStore, OpenError> {
    let wrong = |message: String| OpenError::new(property, file.path.display().to_string(), message);
    let bytes = read_file(io, file).await.map_err(|e| {
        wrong(format!("cannot be read: {e}")).hint("name a file that the user of the agent may read")
    })?;
    let hint = "see what it holds: keytool -list -keystore FILE , with the password that is set here";
    keystore::read(&bytes, file.password.as_deref()).map_err(|e| wrong(e.to_string()).hint(hint))
}

async fn read_file(io: &Io, file: &StoreFile) -> io::Result<Vec<u8>> {
    let file = io.open(&file.path, OpenOptions::READ).await?;
    let size = file.metadata().await?.size_bytes;
    if size > STORE_BYTES_MAX {
        return Err(io::Error::other(format!("{size} bytes, more than {STORE_BYTES_MAX}")));
    }
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < size {
        let room = size as usize - bytes.len();
        let (read, piece) = file.read_at(Vec::with_capacity(room), bytes.len() as u64).await;
        if read? == 0 {
            break;
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

type Versions = Vec<&'static SupportedProtocolVersion>;

/// What is offered, as rustls wants it. Java calls `TLS_AES_128_GCM_SHA256` what rustls calls `TLS13_…`.
fn provider(offered: &Offered) -> Result<(Arc<CryptoProvider>, Versions), OpenError> {
    let mut provider = ring::default_provider();
    provider.cipher_suites.retain(|suite| {
        let name = format!("{:?}", suite.suite()).replacen("TLS13_", "TLS_", 1);
        offered.cipher_suite(&name)
    });
    let mut versions: Versions = Vec::new();
    for (name, version) in [("TLSv1.3", &TLS13), ("TLSv1.2", &TLS12)] {
        let has_suite = provider.cipher_suites.iter().any(|s| s.version().version == version.version);
        if offered.protocol(name) && has_suite {
            versions.push(version);
        }
    }
    if versions.is_empty() {
        let all: Vec<_> = ring::default_provider()
            .cipher_suites
            .iter()
            .map(|s| format!("{:?}", s.suite()).replacen("TLS13_", "TLS_", 1))
            .collect();
        let shown = offered.include_cipher_suites.join(" ");
        return Err(OpenError::new("include-cipher-suites", shown, "no cipher suite is left")
            .hint(format!("this program knows: {}", all.join(" "))));
    }
    Ok((Arc::new(provider), versions))
}

/// Checks the chain, and the name if that is wanted.
#[derive(Debug)]
struct ChainVerifier {
    roots: RootCertStore,
    trusted: Vec<CertificateDer<'static>>,
    trust_all: bool,
    verify_host: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.trust_all && !self.trusted.iter().any(|c| c == end_entity) {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &self.roots,
                intermediates,
                now,
                algorithms,
            )?;
        }
        if self.verify_host {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::zlib::ZlibStream;
    use crate::io::{EngineKind, run_local};
    use std::path::PathBuf;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    fn file(name: &str) -> StoreFile {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/keystore").join(name);
        StoreFile { path, password: Some("changeit".to_owned()) }
    }
    fn server(name: &str) -> ServerTls {
        ServerTls { keystore: file(name), offered: Offered::default() }
    }
    fn client(name: &str) -> ClientTls {
        ClientTls { truststore: Some(file(name)), ..ClientTls::default() }
    }

    async fn talk(acceptor: &Acceptor, connector: &Connector, zlib_outside: bool) -> io::Result<()> {
        let (a, b) = duplex(1000);
        let (a, b): (Box<dyn Stream>, Box<dyn Stream>) = if zlib_outside {
            (Box::new(ZlibStream::new(a, 6, true)), Box::new(ZlibStream::new(b, 6, false)))
        } else {
            (Box::new(a), Box::new(b))
        };
        let (a, b) = tokio::join!(connector.connect("some_host.example", a), acceptor.accept(b));
        let (mut a, mut b) = (a?, b?);
        let send = async {
            a.write_all(b"hello").await?;
            a.flush().await
        };
        let mut back = [0; 5];
        let (sent, read) = tokio::join!(send, b.read_exact(&mut back));
        sent?;
        read?;
        assert_eq!(&back, b"hello");
        Ok(())
    }

    #[test]
    fn every_store_serves_and_is_trusted() {
        run_local(EngineKind::Portable, |io| async move {
            for keystore in ["server.jks", "server.p12", "server-legacy.p12", "server.pem"] {
                let acceptor = Acceptor::open(&io, &server(keystore)).await.unwrap();
                for truststore in ["trust.jks", "trust.p12", "server.pem", "server.jks"] {
                    let connector = Connector::open(&io, &client(truststore)).await.unwrap();
                    for zlib_outside in [false, true] {
                        talk(&acceptor, &connector, zlib_outside).await.unwrap();
                    }
                }
            }
        })
        .unwrap();
    }

    #[test]
    fn strangers_are_refused_unless_anybody_is_welcome() {
        run_local(EngineKind::Portable, |io| async move {
            let acceptor = Acceptor::open(&io, &server("server.jks")).await.unwrap();
            // The system's authorities did not sign the test's key.
            if let Ok(connector) = Connector::open(&io, &ClientTls::default()).await {
                assert!(talk(&acceptor, &connector, false).await.is_err());
            }
            let anybody = ClientTls { trust_all: true, ..ClientTls::default() };
            talk(&acceptor, &Connector::open(&io, &anybody).await.unwrap(), false).await.unwrap();
        })
        .unwrap();
    }

    #[test]
    fn a_certificate_for_another_host_is_refused_where_that_is_wanted() {
        run_local(EngineKind::Portable, |io| async move {
            let acceptor = Acceptor::open(&io, &server("server.jks")).await.unwrap();
            // The test's certificate is for `localhost` and 127.0.0.1.
            let hosts =
                [("localhost", true), ("127.0.0.1", true), ("example.com", false), ("some_host", false)];
            for (host, is_right) in hosts {
                for verify_host in [false, true] {
                    let tls = ClientTls { verify_host, ..client("trust.jks") };
                    let connector = Connector::open(&io, &tls).await.unwrap();
                    let (a, b) = duplex(1000);
                    let shaken =
                        tokio::join!(connector.connect(host, Box::new(a)), acceptor.accept(Box::new(b)));
                    assert_eq!(shaken.0.is_ok(), is_right || !verify_host, "{host} {verify_host}");
                }
            }
        })
        .unwrap();
    }

    #[test]
    fn what_is_not_offered_is_not_spoken() {
        run_local(EngineKind::Portable, |io| async move {
            let only =
                |name: &str| Offered { include_protocols: vec![name.to_owned()], ..Offered::default() };
            let mut tls = server("server.jks");
            tls.offered = only("TLSv1.3");
            let acceptor = Acceptor::open(&io, &tls).await.unwrap();
            let mut tls = client("trust.jks");
            tls.offered = only("TLSv1.2");
            let connector = Connector::open(&io, &tls).await.unwrap();
            assert!(talk(&acceptor, &connector, false).await.is_err());
            tls.offered = Offered { include_cipher_suites: vec!["TLS_NULL".into()], ..Offered::default() };
            let error = Connector::open(&io, &tls).await.err().unwrap();
            assert!(error.hint.unwrap().contains("TLS_AES_128_GCM_SHA256"));
        })
        .unwrap();
    }

    #[test]
    fn unusable_stores_are_named() {
        run_local(EngineKind::Portable, |io| async move {
            let error = |tls: ServerTls| {
                let io = io.clone();
                async move { Acceptor::open(&io, &tls).await.err().unwrap().message }
            };
            assert!(error(server("missing.jks")).await.contains("cannot be read"));
            assert!(error(server("trust.jks")).await.contains("no private key"));
            let mut wrong = server("server.jks");
            wrong.keystore.password = Some("wrong".to_owned());
            assert!(error(wrong).await.contains("password"));
        })
        .unwrap();
    }
}
