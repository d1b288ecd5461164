//! Encryption of frames: AES-256-GCM, each frame under a nonce of its own.
//!
//! A key of any size becomes, by HKDF-SHA256 with the log's id, a key for that log alone. The nonce is a
//! random number drawn when the log is opened and the frame's position, which never repeats in a log; even
//! where an operator cut a log and positions are used again, the random part differs. What of the header is
//! known when the payload is encrypted is authenticated with it, so a frame cannot stand for another.
//!
//! Several keys may be given: the first one encrypts, the others only read. A frame names its key by eight
//! bytes that follow from the key and do not give it away.

use std::fmt;

use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::{hkdf, hmac};

use super::frame::{FLAG_ENCRYPTED, FrameHeader, FrameKind, put_u32, put_u64, u64_at};

const ID_SIZE: usize = 8;
const NONCE_SIZE: usize = 12;
const TAG_SIZE: usize = 16;
/// Bytes before the ciphertext.
const PREFIX: usize = ID_SIZE + NONCE_SIZE;
/// Bytes a payload grows by.
pub const OVERHEAD: usize = PREFIX + TAG_SIZE;
/// Shortest key that is taken: AES-128.
pub const KEY_SIZE_MIN: usize = 16;

/// A key under its name.
#[derive(Clone)]
pub struct Key {
    /// As the operator calls it.
    pub name: String,
    secret: Vec<u8>,
}

impl Key {
    /// A key of at least [`KEY_SIZE_MIN`] bytes.
    pub fn new(name: impl Into<String>, secret: Vec<u8>) -> Option<Self> {
        (secret.len() >= KEY_SIZE_MIN).then(|| Self { name: name.into(), secret })
    }
    /// Its bytes, to read what another program encrypted.
    pub fn secret(&self) -> &[u8] {
        &self.secret
    }
    /// What frames call it.
    fn id(&self) -> u64 {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.secret), b"millrace log key id");
        tag.as_ref().first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, [secret])", self.name)
    }
}

/// The keys of a channel. The first one encrypts.
#[derive(Clone, Debug, Default)]
pub struct Keys(pub Vec<Key>);

/// Why a payload cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CipherFault {
    /// It is under a key that was not given; the names of those that were.
    Key(String),
    /// It was changed since, or the header was.
    Forged,
}

/// What one log needs to encrypt and to read.
pub struct LogCipher {
    keys: Vec<(u64, LessSafeKey)>,
    names: String,
    salt: u32,
}

impl fmt::Debug for LogCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogCipher({})", self.names)
    }
}

struct KeySize;
impl hkdf::KeyType for KeySize {
    fn len(&self) -> usize {
        AES_256_GCM.key_len()
    }
}

impl LogCipher {
    /// The cipher of a log; `random` differs from opening to opening.
    pub fn new(keys: &Keys, log_id: u64, random: u64) -> Self {
        let names: Vec<&str> = keys.0.iter().map(|key| key.name.as_str()).collect();
        let derived = keys.0.iter().filter_map(|key| {
            let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, b"millrace log").extract(&key.secret);
            let mut bytes = [0; 32];
            secret.expand(&[b"frames", &log_id.to_le_bytes()], KeySize).ok()?.fill(&mut bytes).ok()?;
            Some((key.id(), LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes).ok()?)))
        });
        Self { keys: derived.collect(), names: names.join(", "), salt: random as u32 }
    }

    /// True if new frames are encrypted.
    pub fn is_active(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Bytes a payload grows by.
    pub fn overhead(&self) -> usize {
        if self.is_active() { OVERHEAD } else { 0 }
    }

    /// The part of a payload's place that holds the plain text before [`Self::seal`].
    pub fn plain<'a>(&self, payload: &'a mut [u8]) -> &'a mut [u8] {
        if !self.is_active() {
            return payload;
        }
        let end = payload.len() - TAG_SIZE;
        &mut payload[PREFIX..end]
    }

    /// Encrypts the payload of a frame in place. The header must have its final position, numbers and flags.
    pub fn seal(&self, header: &FrameHeader, payload: &mut [u8]) {
        let Some((id, key)) = self.keys.first() else { return };
        put_u64(payload, 0, *id);
        put_u32(payload, ID_SIZE, self.salt);
        put_u64(payload, ID_SIZE + 4, header.position);
        let mut nonce = [0; NONCE_SIZE];
        nonce.copy_from_slice(&payload[ID_SIZE..PREFIX]);
        let end = payload.len() - TAG_SIZE;
        let sealed = key.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(authenticated(header)),
            &mut payload[PREFIX..end],
        );
        // Only a text of 64 GiB is too long.
        let tag = sealed.expect("a frame is below 4 GiB");
        payload[end..].copy_from_slice(tag.as_ref());
    }

    /// The payload of a frame as it was before [`Self::seal`]; one that is not encrypted as it is.
    ///
    /// # Errors
    /// [`CipherFault`].
    pub fn open(&self, header: &FrameHeader, stored: Bytes) -> Result<Bytes, CipherFault> {
        if !header.has(FLAG_ENCRYPTED) {
            return Ok(stored);
        }
        let key = self.key_of(&stored)?;
        let nonce = stored.get(ID_SIZE..PREFIX).and_then(|n| n.first_chunk::<NONCE_SIZE>());
        let nonce = Nonce::assume_unique_for_key(*nonce.ok_or(CipherFault::Forged)?);
        let mut text = stored.get(PREFIX..).unwrap_or_default().to_vec();
        let plain = key.open_in_place(nonce, Aad::from(authenticated(header)), &mut text);
        let size = plain.map_err(|_| CipherFault::Forged)?.len();
        if size != header.raw as usize {
            return Err(CipherFault::Forged);
        }
        text.truncate(size);
        Ok(text.into())
    }

    /// Checks that the key of an encrypted payload, or of its first bytes, is there.
    ///
    /// # Errors
    /// [`CipherFault`].
    pub fn key_of(&self, stored: &[u8]) -> Result<&LessSafeKey, CipherFault> {
        if stored.len() < ID_SIZE {
            return Err(CipherFault::Forged);
        }
        let id = u64_at(stored, 0);
        let found = self.keys.iter().find(|(known, _)| *known == id);
        found.map(|(_, key)| key).ok_or_else(|| CipherFault::Key(self.names.clone()))
    }
}

/// What is authenticated besides the payload.
fn authenticated(header: &FrameHeader) -> [u8; 38] {
    let mut out = [0; 38];
    put_u64(&mut out, 0, header.log_id);
    put_u64(&mut out, 8, header.position);
    put_u64(&mut out, 16, header.first_seq);
    put_u32(&mut out, 24, header.events);
    put_u32(&mut out, 28, header.raw);
    put_u32(&mut out, 32, header.marks);
    out[36] = match header.kind {
        FrameKind::Data => 1,
        FrameKind::Snapshot => 2,
    };
    out[37] = header.flags;
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, byte: u8) -> Key {
        Key::new(name, vec![byte; 16]).unwrap()
    }

    fn header(raw: usize) -> FrameHeader {
        FrameHeader {
            length: 4096,
            stored: (raw + OVERHEAD) as u32,
            position: 8192,
            durable: 0,
            first_seq: 7,
            events: 2,
            raw: raw as u32,
            marks: 0,
            kind: FrameKind::Data,
            flags: FLAG_ENCRYPTED | 3,
            time_ms: 0,
            log_id: 99,
        }
    }

    fn sealed(cipher: &LogCipher, text: &[u8]) -> Bytes {
        let mut payload = vec![0; text.len() + OVERHEAD];
        cipher.plain(&mut payload).copy_from_slice(text);
        cipher.seal(&header(text.len()), &mut payload);
        payload.into()
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_only() {
        let old = LogCipher::new(&Keys(vec![key("k0", 1)]), 99, 5);
        let stored = sealed(&old, b"hello");
        assert!(!stored.windows(5).any(|w| w == b"hello"));
        assert_eq!(old.open(&header(5), stored.clone()).unwrap().as_ref(), b"hello");
        let rotated = LogCipher::new(&Keys(vec![key("k1", 2), key("k0", 1)]), 99, 6);
        assert_eq!(rotated.open(&header(5), stored.clone()).unwrap().as_ref(), b"hello");
        assert_ne!(sealed(&rotated, b"hello"), stored);
        let wrong = LogCipher::new(&Keys(vec![key("k0", 9)]), 99, 5);
        assert_eq!(wrong.open(&header(5), stored.clone()), Err(CipherFault::Key("k0".into())));
        let other_log = LogCipher::new(&Keys(vec![key("k0", 1)]), 98, 5);
        assert_eq!(other_log.open(&header(5), stored), Err(CipherFault::Forged));
        assert!(Key::new("short", vec![0; 15]).is_none());
    }

    #[test]
    fn every_change_is_noticed() {
        let cipher = LogCipher::new(&Keys(vec![key("k0", 1)]), 99, 5);
        let stored = sealed(&cipher, b"hello");
        for bit in 0..stored.len() * 8 {
            let mut bytes = stored.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(cipher.open(&header(5), bytes.into()).is_err(), "bit {bit}");
        }
        for cut in 0..stored.len() {
            assert!(cipher.open(&header(5), stored.slice(..cut)).is_err(), "cut at {cut}");
        }
        for change in [
            FrameHeader { position: 1, ..header(5) },
            FrameHeader { first_seq: 1, ..header(5) },
            FrameHeader { events: 1, ..header(5) },
            FrameHeader { marks: 1, ..header(5) },
            FrameHeader { flags: FLAG_ENCRYPTED | 1, ..header(5) },
            FrameHeader { kind: FrameKind::Snapshot, ..header(5) },
        ] {
            assert_eq!(cipher.open(&change, stored.clone()), Err(CipherFault::Forged), "{change:?}");
        }
    }
}
