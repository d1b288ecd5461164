//! Secret keys in a JCEKS file, the store of Hadoop's credentials and of Flume's encryption keys.
//!
//! A JCEKS is a JKS with another magic number and a third kind of entry: a secret key, sealed with
//! `PBEWithMD5AndTripleDES` and written by Java's serialization (`com.sun.crypto.provider.JceKeyStore`).

use cbc::cipher::{BlockModeDecrypt, KeyIvInit, block_padding::Pkcs7};
use md5::{Digest, Md5};

use super::big_endian::Reader;
use super::java_object::{self, Object};
use super::keystore::{KeyStoreError, der_value, store_digest};

const MAGIC: [u8; 4] = [0xce, 0xce, 0xce, 0xce];
/// Java refuses more rounds than this, too.
const ROUNDS_MAX: u32 = 5_000_000;

/// A secret key, still sealed.
#[derive(Debug)]
pub struct SealedKey {
    /// Name in the store; Java writes it in small letters.
    pub alias: String,
    salt: [u8; 8],
    rounds: u32,
    content: Vec<u8>,
}

/// Reads the secret keys of a store, after checking that the password fits.
///
/// # Errors
/// Why it cannot be used.
pub fn read(bytes: &[u8], password: &str) -> Result<Vec<SealedKey>, KeyStoreError> {
    if !bytes.starts_with(&MAGIC) {
        return Err(KeyStoreError::Unknown);
    }
    let damaged = |reason: &str| KeyStoreError::Damaged { format: "JCEKS", reason: reason.to_owned() };
    let (content, digest) =
        bytes.split_at_checked(bytes.len().saturating_sub(20)).ok_or_else(|| damaged("too short"))?;
    if store_digest(password, content) != digest {
        return Err(KeyStoreError::Password);
    }
    entries(&mut Reader::new(content)).ok_or_else(|| damaged("an entry is cut short or of an unknown kind"))
}

fn certificate(reader: &mut Reader<'_>) -> Option<()> {
    reader.text()?;
    reader.sized().map(drop)
}

fn entries(reader: &mut Reader<'_>) -> Option<Vec<SealedKey>> {
    reader.take(8)?;
    let mut keys = Vec::new();
    for _ in 0..reader.u32()? {
        let tag = reader.u32()?;
        let alias = String::from_utf8_lossy(reader.text()?).into_owned();
        reader.take(8)?;
        match tag {
            1 => {
                reader.sized()?;
                for _ in 0..reader.u32()? {
                    certificate(reader)?;
                }
            }
            2 => certificate(reader)?,
            3 => {
                let (object, rest) = java_object::read(reader.rest())?;
                *reader = Reader::new(rest);
                keys.push(sealed(alias, &object)?);
            }
            _ => return None,
        }
    }
    Some(keys)
}

/// A `javax.crypto.SealedObject`.
fn sealed(alias: String, object: &Object) -> Option<SealedKey> {
    let (parameters, _) = der_value(object.bytes("encodedParams")?, 0x30)?;
    let (salt, rest) = der_value(parameters, 0x04)?;
    let (rounds, _) = der_value(rest, 0x02)?;
    if rounds.len() > 4 {
        return None;
    }
    let rounds = rounds.iter().fold(0u32, |n, byte| n << 8 | u32::from(*byte));
    if !(1..=ROUNDS_MAX).contains(&rounds) || !object.text("sealAlg")?.eq("PBEWithMD5AndTripleDES") {
        return None;
    }
    let content = object.bytes("encryptedContent")?.to_vec();
    Some(SealedKey { alias, salt: salt.try_into().ok()?, rounds, content })
}

impl SealedKey {
    /// The key's bytes. `None` if the password does not fit.
    pub fn open(&self, password: &str) -> Option<Vec<u8>> {
        // Java takes the lower seven bits of each character.
        let password: Vec<u8> = password.encode_utf16().map(|unit| (unit & 0x7f) as u8).collect();
        let mut salt = self.salt;
        if salt[..4] == salt[4..] {
            // As in Java, where the swap of the inner two bytes is a slip that has become the format.
            for i in 0..2 {
                let byte = salt[i];
                salt[i] = salt[3 - i];
                salt[2] = byte;
            }
        }
        let mut key = [0; 32];
        for (half, out) in salt.chunks(4).zip(key.chunks_mut(16)) {
            let mut block = half.to_vec();
            for _ in 0..self.rounds {
                block = Md5::new().chain_update(&block).chain_update(&password).finalize().to_vec();
            }
            out.copy_from_slice(&block);
        }
        let (key, iv) = key.split_at(24);
        let cipher = cbc::Decryptor::<des::TdesEde3>::new_from_slices(key, iv).ok()?;
        let plain = cipher.decrypt_padded_vec::<Pkcs7>(&self.content).ok()?;
        let (object, _) = java_object::read(&plain)?;
        // SecretKeySpec has `key`, KeyRep, which stands for other classes, has `encoded`.
        object.bytes("key").or_else(|| object.bytes("encoded")).map(<[u8]>::to_vec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // tests/fixtures/keystore/README.md says how they were made.
    const STORE: &[u8] = include_bytes!("../../tests/fixtures/keystore/credentials.jceks");

    #[test]
    fn hadoops_credentials_are_read() {
        let keys = read(STORE, "none").unwrap();
        let mut found: Vec<(String, String)> = keys
            .iter()
            .map(|k| (k.alias.clone(), String::from_utf8(k.open("none").unwrap()).unwrap()))
            .collect();
        found.sort();
        let expected = [("db.password", "s3cret ¢äöü"), ("sink-token", "changeit"), ("trust-pw", "x")];
        assert_eq!(found, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn wrong_passwords_and_files_are_told_apart() {
        assert!(read(STORE, "wrong").unwrap_err().to_string().contains("password"));
        assert!(read(b"hello", "none").unwrap_err().to_string().contains("neither"));
        assert!(read(&STORE[..STORE.len() - 1], "none").is_err());
        assert!(read(STORE, "none").unwrap()[0].open("wrong").is_none());
    }

    #[test]
    fn every_truncation_is_refused() {
        for cut in 0..STORE.len() - 20 {
            assert!(entries(&mut Reader::new(&STORE[..cut])).is_none(), "cut at {cut}");
        }
    }
}
