//! Keys and certificates as operators of Java programs keep them: JKS, PKCS #12 and PEM files.
//!
//! Java itself looks at the content of a store and not only at `keystore-type`; so does this reader.

use p12_keystore::{KeyStore as Pkcs12, KeyStoreEntry, Pkcs12ImportPolicy};
use sha1::{Digest, Sha1};
use tokio_rustls::rustls::pki_types::pem::{PemObject, SectionKind};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::big_endian::Reader;

/// Largest store that is read: the authorities of the whole web take 250 KiB.
pub const STORE_BYTES_MAX: u64 = 16 << 20;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    /// Neither of the three formats.
    #[error("neither a JKS, a PKCS12 nor a PEM file")]
    Unknown,
    /// The password does not fit, or somebody changed the file.
    #[error("the password does not fit, or the file was changed")]
    Password,
    /// A password is needed.
    #[error("the file is protected and no password is set")]
    NoPassword,
    /// Damaged.
    #[error("damaged {format} file: {reason}")]
    Damaged {
        /// JKS, PKCS12, PEM.
        format: &'static str,
        /// Where it breaks.
        reason: String,
    },
}

/// A private key with its certificate chain, leaf first.
#[derive(Debug)]
pub struct Identity {
    /// Name in the store.
    pub alias: String,
    /// The key.
    pub key: PrivateKeyDer<'static>,
    /// The chain.
    pub chain: Vec<CertificateDer<'static>>,
}

/// What a store holds.
#[derive(Debug, Default)]
pub struct KeyStore {
    /// Private keys, in the order of the file.
    pub identities: Vec<Identity>,
    /// Certificates to trust.
    pub trusted: Vec<CertificateDer<'static>>,
}

/// Reads a store of any of the formats. Without a password a JKS is read unchecked, as Java does for trust
/// stores; its keys stay closed then.
///
/// # Errors
/// Why it cannot be used.
pub fn read(bytes: &[u8], password: Option<&str>) -> Result<KeyStore, KeyStoreError> {
    match bytes {
        [0xfe, 0xed, 0xfe, 0xed, ..] => read_jks(bytes, password),
        [0x30, ..] => read_pkcs12(bytes, password),
        _ if memchr::memmem::find(bytes, b"-----BEGIN ").is_some() => read_pem(bytes),
        _ => Err(KeyStoreError::Unknown),
    }
}

fn read_pem(bytes: &[u8]) -> Result<KeyStore, KeyStoreError> {
    let damaged = |reason: String| KeyStoreError::Damaged { format: "PEM", reason };
    let mut store = KeyStore::default();
    let mut key = None;
    for section in <(SectionKind, Vec<u8>) as PemObject>::pem_slice_iter(bytes) {
        let (kind, der) = section.map_err(|e| damaged(e.to_string()))?;
        match kind {
            SectionKind::Certificate => store.trusted.push(CertificateDer::from(der)),
            SectionKind::PrivateKey => key = Some(PrivateKeyDer::from(PrivatePkcs8KeyDer::from(der))),
            SectionKind::RsaPrivateKey => key = Some(PrivateKeyDer::Pkcs1(der.into())),
            SectionKind::EcPrivateKey => key = Some(PrivateKeyDer::Sec1(der.into())),
            _ => {}
        }
    }
    if let Some(key) = key {
        let chain = store.trusted.clone();
        store.identities.push(Identity { alias: "pem".to_owned(), key, chain });
    } else if memchr::memmem::find(bytes, b"BEGIN ENCRYPTED PRIVATE KEY").is_some() {
        return Err(damaged("the private key is encrypted; use a PKCS12 file or an unencrypted key".into()));
    }
    Ok(store)
}

fn read_pkcs12(bytes: &[u8], password: Option<&str>) -> Result<KeyStore, KeyStoreError> {
    let given = password.unwrap_or_default();
    let parsed = Pkcs12::from_pkcs12(bytes, given, Pkcs12ImportPolicy::Relaxed).map_err(|e| match e {
        p12_keystore::error::Error::MacError(_) if password.is_none() => KeyStoreError::NoPassword,
        p12_keystore::error::Error::MacError(_) => KeyStoreError::Password,
        other => KeyStoreError::Damaged { format: "PKCS12", reason: other.to_string() },
    })?;
    let mut store = KeyStore::default();
    let der = |c: &p12_keystore::Certificate| CertificateDer::from(c.as_der().to_vec());
    for (alias, entry) in parsed.entries() {
        match entry {
            KeyStoreEntry::PrivateKeyChain(chain) => store.identities.push(Identity {
                alias: alias.clone(),
                key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(chain.key().as_der().to_vec())),
                chain: chain.certs().iter().map(der).collect(),
            }),
            KeyStoreEntry::Certificate(certificate) => store.trusted.push(der(certificate)),
            KeyStoreEntry::Secret(_) => {}
        }
    }
    Ok(store)
}

/// Reads a JKS: big-endian, entries one after the other, a keyed SHA-1 over everything at the end.
fn read_jks(bytes: &[u8], password: Option<&str>) -> Result<KeyStore, KeyStoreError> {
    let damaged = |reason: &str| KeyStoreError::Damaged { format: "JKS", reason: reason.to_owned() };
    let (content, digest) =
        bytes.split_at_checked(bytes.len().saturating_sub(20)).ok_or_else(|| damaged("too short"))?;
    if password.is_some_and(|p| store_digest(p, content) != digest) {
        return Err(KeyStoreError::Password);
    }
    let password = password.map(|p| p.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>());
    let mut jks = Reader::new(content);
    let mut store = KeyStore::default();
    let parse = |jks: &mut Reader<'_>, store: &mut KeyStore| -> Option<Result<(), KeyStoreError>> {
        jks.u32()?;
        let version = jks.u32()?;
        let entries = jks.u32()?;
        for _ in 0..entries {
            let tag = jks.u32()?;
            let alias = String::from_utf8_lossy(jks.text()?).into_owned();
            jks.take(8)?;
            if tag == 1 {
                let protected = jks.sized()?;
                let mut chain = Vec::new();
                for _ in 0..jks.u32()? {
                    chain.push(certificate(jks, version)?);
                }
                if let Some(password) = &password {
                    match open_key(protected, password) {
                        Some(key) => store.identities.push(Identity {
                            alias,
                            key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key)),
                            chain,
                        }),
                        None => return Some(Err(KeyStoreError::Password)),
                    }
                }
            } else {
                store.trusted.push(certificate(jks, version)?);
            }
        }
        Some(Ok(()))
    };
    parse(&mut jks, &mut store).ok_or_else(|| damaged("an entry is cut short"))??;
    Ok(store)
}

/// What stands at the end of a JKS or JCEKS over everything before it.
pub(super) fn store_digest(password: &str, content: &[u8]) -> [u8; 20] {
    let password: Vec<u8> = password.encode_utf16().flat_map(u16::to_be_bytes).collect();
    Sha1::new()
        .chain_update(password)
        .chain_update("Mighty Aphrodite")
        .chain_update(content)
        .finalize()
        .into()
}

fn certificate(jks: &mut Reader<'_>, version: u32) -> Option<CertificateDer<'static>> {
    if version >= 2 {
        jks.text()?;
    }
    Some(CertificateDer::from(jks.sized()?.to_vec()))
}

/// Opens a key of a JKS: `salt(20) · key xor stream · check(20)` in an `EncryptedPrivateKeyInfo`, where the
/// stream is a chain of SHA-1 over password and the block before, beginning with the salt.
fn open_key(protected: &[u8], password: &[u8]) -> Option<Vec<u8>> {
    let (info, _) = der_value(protected, 0x30)?;
    let (_, rest) = der_value(info, 0x30)?;
    let (octets, _) = der_value(rest, 0x04)?;
    let (salt, rest) = octets.split_at_checked(20)?;
    let (hidden, check) = rest.split_at_checked(rest.len().checked_sub(20)?)?;
    let mut key = hidden.to_vec();
    let mut block = salt.to_vec();
    for piece in key.chunks_mut(20) {
        block = Sha1::new().chain_update(password).chain_update(&block).finalize().to_vec();
        piece.iter_mut().zip(&block).for_each(|(byte, mask)| *byte ^= mask);
    }
    let digest = Sha1::new().chain_update(password).chain_update(&key).finalize();
    (digest.as_slice() == check).then_some(key)
}

/// Content of a DER value with this tag, and what follows it.
pub(super) fn der_value(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], mut rest) = bytes.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let mut size = usize::from(first);
    if first & 0x80 != 0 {
        let (length, tail) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if length.len() > 4 {
            return None;
        }
        size = length.iter().fold(0, |size, byte| size << 8 | usize::from(*byte));
        rest = tail;
    }
    rest.split_at_checked(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!("../../tests/fixtures/keystore/", $name)).as_slice()
        };
    }

    #[test]
    fn stores_of_keytool_are_read() {
        // tests/fixtures/keystore/README.md says how they were made.
        let mut keys = Vec::new();
        for (name, bytes) in [
            ("jks", fixture!("server.jks")),
            ("p12", fixture!("server.p12")),
            ("old p12", fixture!("server-legacy.p12")),
            ("pem", fixture!("server.pem")),
        ] {
            let store = read(bytes, Some("changeit")).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(store.identities.len(), 1, "{name}");
            assert!(!store.identities[0].chain.is_empty(), "{name}");
            keys.push((store.identities[0].chain[0].to_vec(), store.identities[0].key.secret_der().to_vec()));
        }
        assert!(keys.iter().all(|k| *k == keys[0]), "the same key in every store");
        for (name, bytes) in [("jks", fixture!("trust.jks")), ("p12", fixture!("trust.p12"))] {
            let store = read(bytes, Some("changeit")).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(
                store.trusted.iter().map(|c| c.to_vec()).collect::<Vec<_>>(),
                [keys[0].0.clone()],
                "{name}"
            );
        }
        assert_eq!(read(fixture!("trust.jks"), None).unwrap().trusted.len(), 1);
    }

    #[test]
    fn wrong_passwords_and_files_are_told_apart() {
        let error = |bytes: &[u8], password| read(bytes, password).unwrap_err().to_string();
        assert!(error(fixture!("server.jks"), Some("wrong")).contains("password"));
        assert!(error(fixture!("server.p12"), Some("wrong")).contains("password"));
        assert!(error(fixture!("server.p12"), None).contains("no password"));
        assert!(error(b"hello", None).contains("neither"));
        assert!(error(&[0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 9], None).contains("damaged"));
    }

    #[test]
    fn every_truncation_is_refused_or_read() {
        for bytes in [fixture!("server.jks"), fixture!("trust.jks")] {
            for cut in 0..bytes.len() {
                let _ = read(&bytes[..cut], None);
            }
        }
    }
}
