//! The TLS properties that listening sources have in common, and those of clients.
//!
//! Flume: `SSLUtil`, `SslContextAwareAbstractSource`. A component that reads them lists each constant among
//! its own properties. What a component leaves out is taken from the `-D` properties (`javax.net.ssl.…`,
//! `flume.ssl.…`), then from the environment (`FLUME_SSL_…`).

use std::path::PathBuf;

use super::context::ParseContext;
use super::globals::Globals;
use super::property::{Property, Words};

/// `ssl`
pub const SSL: Property<bool> = Property::optional("ssl", "false", "Speak TLS on every connection.");
/// `keystore`
pub const KEYSTORE: Property<PathBuf> = Property::absent(
    "keystore",
    "File with the private key and its certificate chain: JKS, PKCS12 or PEM. Default: -Djavax.net.ssl.keyStore, FLUME_SSL_KEYSTORE_PATH.",
);
/// `keystore-password`
pub const KEYSTORE_PASSWORD: Property<String> = Property::absent(
    "keystore-password",
    "Password of the key store and its key. Default: -Djavax.net.ssl.keyStorePassword, FLUME_SSL_KEYSTORE_PASSWORD.",
)
.secret();
/// `keystore-type`
pub const KEYSTORE_TYPE: Property<String> = Property::absent(
    "keystore-type",
    "JKS, PKCS12 or PEM. The file's content is looked at in any case. Default: -Djavax.net.ssl.keyStoreType, FLUME_SSL_KEYSTORE_TYPE or JKS.",
);
/// `truststore`
pub const TRUSTSTORE: Property<PathBuf> = Property::absent(
    "truststore",
    "File with the certificates to trust: JKS, PKCS12 or PEM. Default: -Djavax.net.ssl.trustStore, FLUME_SSL_TRUSTSTORE_PATH, then the system's.",
);
/// `truststore-password`
pub const TRUSTSTORE_PASSWORD: Property<String> = Property::absent(
    "truststore-password",
    "Password of the trust store. Default: -Djavax.net.ssl.trustStorePassword, FLUME_SSL_TRUSTSTORE_PASSWORD.",
)
.secret();
/// `truststore-type`
pub const TRUSTSTORE_TYPE: Property<String> = Property::absent(
    "truststore-type",
    "JKS, PKCS12 or PEM. The file's content is looked at in any case. Default: -Djavax.net.ssl.trustStoreType, FLUME_SSL_TRUSTSTORE_TYPE or JKS.",
);
/// `trust-all-certs`
pub const TRUST_ALL: Property<bool> =
    Property::optional("trust-all-certs", "false", "Accept any certificate: encryption without identity.");
/// `include-protocols`
pub const INCLUDE_PROTOCOLS: Property<Words> = Property::absent(
    "include-protocols",
    "Protocols to offer, of TLSv1.2 and TLSv1.3. Older ones are not spoken. Default: -Dflume.ssl.include.protocols, FLUME_SSL_INCLUDE_PROTOCOLS or both.",
);
/// `exclude-protocols`
pub const EXCLUDE_PROTOCOLS: Property<Words> = Property::absent(
    "exclude-protocols",
    "Protocols not to offer. Default: -Dflume.ssl.exclude.protocols, FLUME_SSL_EXCLUDE_PROTOCOLS; SSLv3 is never offered.",
);
/// `include-cipher-suites`
pub const INCLUDE_CIPHER_SUITES: Property<Words> = Property::absent(
    "include-cipher-suites",
    "Cipher suites to offer, by their Java names. Default: -Dflume.ssl.include.cipherSuites, FLUME_SSL_INCLUDE_CIPHERSUITES or all.",
);
/// `exclude-cipher-suites`
pub const EXCLUDE_CIPHER_SUITES: Property<Words> = Property::absent(
    "exclude-cipher-suites",
    "Cipher suites not to offer, by their Java names. Default: -Dflume.ssl.exclude.cipherSuites, FLUME_SSL_EXCLUDE_CIPHERSUITES.",
);

/// Which protocols and cipher suites are offered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offered {
    /// Only these, unless empty.
    pub include_protocols: Vec<String>,
    /// Not these.
    pub exclude_protocols: Vec<String>,
    /// Only these, unless empty.
    pub include_cipher_suites: Vec<String>,
    /// Not these.
    pub exclude_cipher_suites: Vec<String>,
}

impl Offered {
    /// True if TLS of this version (`TLSv1.3`) is offered.
    pub fn protocol(&self, name: &str) -> bool {
        offered(name, &self.include_protocols, &self.exclude_protocols)
    }
    /// True if this cipher suite is offered.
    pub fn cipher_suite(&self, name: &str) -> bool {
        offered(name, &self.include_cipher_suites, &self.exclude_cipher_suites)
    }
}

fn offered(name: &str, include: &[String], exclude: &[String]) -> bool {
    (include.is_empty() || include.iter().any(|n| n == name)) && !exclude.iter().any(|n| n == name)
}

/// A store and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its password.
    pub password: Option<String>,
}

impl std::fmt::Debug for StoreFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoreFile({}, [secret])", self.path.display())
    }
}

/// TLS of a listening source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Key and chain.
    pub keystore: StoreFile,
    /// What is offered.
    pub offered: Offered,
}

/// TLS of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// Whom to trust; the system's authorities if absent.
    pub truststore: Option<StoreFile>,
    /// Trust anybody.
    pub trust_all: bool,
    /// The certificate must be for the host that was asked for. Flume's RPC clients do not look at it.
    pub verify_host: bool,
    /// What is offered.
    pub offered: Offered,
}

/// A default of all components: the `-D` property, else the environment variable.
struct Fallback(&'static str, &'static str);

const GLOBAL_KEYSTORE_PATH: Fallback = Fallback("javax.net.ssl.keyStore", "FLUME_SSL_KEYSTORE_PATH");
const GLOBAL_KEYSTORE_PASSWORD: Fallback =
    Fallback("javax.net.ssl.keyStorePassword", "FLUME_SSL_KEYSTORE_PASSWORD");
const GLOBAL_TRUSTSTORE_PATH: Fallback = Fallback("javax.net.ssl.trustStore", "FLUME_SSL_TRUSTSTORE_PATH");
const GLOBAL_TRUSTSTORE_PASSWORD: Fallback =
    Fallback("javax.net.ssl.trustStorePassword", "FLUME_SSL_TRUSTSTORE_PASSWORD");
const GLOBAL_INCLUDE_PROTOCOLS: Fallback =
    Fallback("flume.ssl.include.protocols", "FLUME_SSL_INCLUDE_PROTOCOLS");
const GLOBAL_EXCLUDE_PROTOCOLS: Fallback =
    Fallback("flume.ssl.exclude.protocols", "FLUME_SSL_EXCLUDE_PROTOCOLS");
const GLOBAL_INCLUDE_CIPHERSUITES: Fallback =
    Fallback("flume.ssl.include.cipherSuites", "FLUME_SSL_INCLUDE_CIPHERSUITES");
const GLOBAL_EXCLUDE_CIPHERSUITES: Fallback =
    Fallback("flume.ssl.exclude.cipherSuites", "FLUME_SSL_EXCLUDE_CIPHERSUITES");

impl Fallback {
    fn read(&self, globals: &Globals) -> Option<String> {
        globals.get(self.0, self.1)
    }
}

/// The trust store of clients that have no property of their own for it.
pub fn global_truststore(globals: &Globals) -> Option<StoreFile> {
    let path = GLOBAL_TRUSTSTORE_PATH.read(globals)?.into();
    Some(StoreFile { path, password: GLOBAL_TRUSTSTORE_PASSWORD.read(globals) })
}

fn words(cx: &mut ParseContext<'_>, property: &Property<Words>, fallback: &Fallback) -> Option<Vec<String>> {
    // The environment's lists are separated by commas, the components' by blanks: take both.
    let split = |text: &str| -> Vec<String> {
        text.split([',', ' ', '\t']).filter(|w| !w.is_empty()).map(str::to_owned).collect()
    };
    let own = cx.get_opt(property)?;
    Some(match own {
        Some(Words(words)) => words.iter().flat_map(|w| split(w)).collect(),
        None => fallback.read(cx.globals()).map(|text| split(&text)).unwrap_or_default(),
    })
}

fn parse_offered(cx: &mut ParseContext<'_>) -> Option<Offered> {
    let offered = Offered {
        include_protocols: words(cx, &INCLUDE_PROTOCOLS, &GLOBAL_INCLUDE_PROTOCOLS)?,
        exclude_protocols: words(cx, &EXCLUDE_PROTOCOLS, &GLOBAL_EXCLUDE_PROTOCOLS)?,
        include_cipher_suites: words(cx, &INCLUDE_CIPHER_SUITES, &GLOBAL_INCLUDE_CIPHERSUITES)?,
        exclude_cipher_suites: words(cx, &EXCLUDE_CIPHER_SUITES, &GLOBAL_EXCLUDE_CIPHERSUITES)?,
    };
    if !offered.protocol("TLSv1.2") && !offered.protocol("TLSv1.3") {
        let key =
            if offered.include_protocols.is_empty() { "exclude-protocols" } else { "include-protocols" };
        let hint = Some("TLSv1.2 and TLSv1.3 are spoken; leave at least one".to_owned());
        cx.error(key, "leaves no TLS version to speak", hint);
        return None;
    }
    Some(offered)
}

/// Reads the TLS properties of a listening source. Outer `None` only after a complaint; inner `None` without
/// `ssl = true`.
pub fn parse_server(cx: &mut ParseContext<'_>) -> Option<Option<ServerTls>> {
    let ssl = cx.get(&SSL);
    let path = cx.get_opt(&KEYSTORE);
    let password = cx.get_opt(&KEYSTORE_PASSWORD);
    let _ = cx.get_opt(&KEYSTORE_TYPE);
    if !ssl? {
        return Some(None);
    }
    let offered = parse_offered(cx);
    let path = path?.or_else(|| GLOBAL_KEYSTORE_PATH.read(cx.globals()).map(PathBuf::from));
    let password = password?.or_else(|| GLOBAL_KEYSTORE_PASSWORD.read(cx.globals()));
    let pem = path.as_ref().and_then(|p| p.extension()).is_some_and(|e| e == "pem");
    if path.is_none() {
        let hint = format!("add: {} = /etc/flume/server.p12", cx.full_key("keystore"));
        cx.error("keystore", "is required with ssl = true", Some(hint));
    }
    if password.is_none() && !pem {
        let hint =
            format!("add: {} = …, or set FLUME_SSL_KEYSTORE_PASSWORD", cx.full_key("keystore-password"));
        cx.error("keystore-password", "is required with ssl = true", Some(hint));
        return None;
    }
    Some(Some(ServerTls { keystore: StoreFile { path: path?, password }, offered: offered? }))
}

/// Reads the TLS properties of a client; as [`parse_server`].
pub fn parse_client(cx: &mut ParseContext<'_>) -> Option<Option<ClientTls>> {
    let ssl = cx.get(&SSL);
    let path = cx.get_opt(&TRUSTSTORE);
    let password = cx.get_opt(&TRUSTSTORE_PASSWORD);
    let _ = cx.get_opt(&TRUSTSTORE_TYPE);
    let trust_all = cx.get(&TRUST_ALL);
    if !ssl? {
        return Some(None);
    }
    let offered = parse_offered(cx)?;
    let path = path?.or_else(|| GLOBAL_TRUSTSTORE_PATH.read(cx.globals()).map(PathBuf::from));
    let password = password?.or_else(|| GLOBAL_TRUSTSTORE_PASSWORD.read(cx.globals()));
    let truststore = path.map(|path| StoreFile { path, password });
    Some(Some(ClientTls { truststore, trust_all: trust_all?, verify_host: false, offered }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::testing::parse;

    #[test]
    fn servers() {
        let off = parse(Kind::Source, "keystore = /k.jks", parse_server);
        assert_eq!(off, (Some(None), vec![]));
        let (tls, complaints) = parse(
            Kind::Source,
            "ssl = true\nkeystore = /k.jks\nkeystore-password = p\nexclude-protocols = SSLv3 TLSv1.2",
            parse_server,
        );
        assert_eq!(complaints, [""; 0]);
        let tls = tls.unwrap().unwrap();
        assert_eq!(tls.keystore.password.as_deref(), Some("p"));
        assert!(tls.offered.protocol("TLSv1.3") && !tls.offered.protocol("TLSv1.2"));
        assert!(!format!("{:?}", tls).contains("\"p\""));
        let (tls, complaints) = parse(Kind::Source, "ssl = true", parse_server);
        assert!(tls.is_none());
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        let (tls, complaints) =
            parse(Kind::Source, "ssl = true\nkeystore = /k.pem\ninclude-protocols = TLSv1", parse_server);
        assert!(tls.is_none());
        assert!(complaints[0].contains("TLSv1.2 and TLSv1.3"), "{complaints:?}");
    }

    #[test]
    fn defaults_of_all_components() {
        let system = [
            ("javax.net.ssl.keyStore", "/system.jks"),
            ("javax.net.ssl.trustStorePassword", "trusted"),
            ("flume.ssl.include.protocols", "TLSv1.3,TLSv1"),
        ];
        let variables = [
            ("FLUME_SSL_KEYSTORE_PATH", "/variable.jks"),
            ("FLUME_SSL_KEYSTORE_PASSWORD", "secret"),
            ("FLUME_SSL_TRUSTSTORE_PATH", "/trust.jks"),
        ];
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let globals = Globals::new(map(&system), map(&variables));
        assert!(!format!("{globals:?}").contains("secret\""));
        let mut settings = crate::testing::settings(Kind::Source, "ssl = true");
        settings.globals = globals.clone();
        let mut complaints = Vec::new();
        let server = parse_server(&mut ParseContext::new(&settings, &mut complaints)).unwrap().unwrap();
        let client = parse_client(&mut ParseContext::new(&settings, &mut complaints)).unwrap().unwrap();
        assert!(complaints.is_empty(), "{complaints:?}");
        let store =
            |path: &str, password: &str| StoreFile { path: path.into(), password: Some(password.into()) };
        assert_eq!(server.keystore, store("/system.jks", "secret"), "a property goes before a variable");
        assert!(server.offered.protocol("TLSv1.3") && !server.offered.protocol("TLSv1.2"));
        assert_eq!(client.truststore, Some(store("/trust.jks", "trusted")));
        assert_eq!(global_truststore(&globals), client.truststore);
        // The component's own goes before both; nothing here switches TLS on.
        settings =
            crate::testing::settings(Kind::Source, "ssl = true\nkeystore = /own.jks\nkeystore-password = o");
        settings.globals = globals.clone();
        let own = parse_server(&mut ParseContext::new(&settings, &mut complaints)).unwrap().unwrap();
        assert_eq!(own.keystore, store("/own.jks", "o"));
        settings = crate::testing::settings(Kind::Source, "port = 1");
        settings.globals = globals;
        assert_eq!(parse_server(&mut ParseContext::new(&settings, &mut complaints)), Some(None));
    }

    #[test]
    fn clients() {
        let (tls, complaints) = parse(
            Kind::Sink,
            "ssl = true\ntrust-all-certs = true\ninclude-cipher-suites = TLS_AES_128_GCM_SHA256 TLS_AES_256_GCM_SHA384",
            parse_client,
        );
        assert_eq!(complaints, [""; 0]);
        let tls = tls.unwrap().unwrap();
        assert!(tls.trust_all && tls.truststore.is_none());
        assert!(tls.offered.cipher_suite("TLS_AES_128_GCM_SHA256"));
        assert!(!tls.offered.cipher_suite("TLS_CHACHA20_POLY1305_SHA256"));
    }
}
