//! Encrypted logs: `AES/CTR/NoPadding`, every record of a file from the same initial counter.
//!
//! Flume: `AESCTRNoPaddingProvider`. Nothing is authenticated: with a wrong key the records are nonsense.

use aes::cipher::{KeyIvInit, StreamCipher};

use super::replay::Decrypt;

/// What Flume calls the cipher.
pub const NAME: &str = "AESCTRNOPADDING";
/// Size of the counter block.
const BLOCK_SIZE: usize = 16;

/// Reads the records of a log with these parameters. `None` if key or parameters have no size of AES.
pub fn decrypt(key: &[u8], parameters: &[u8]) -> Option<Decrypt> {
    let iv: [u8; BLOCK_SIZE] = parameters.try_into().ok()?;
    Some(match key.len() {
        16 => with::<ctr::Ctr128BE<aes::Aes128>>(key, iv)?,
        24 => with::<ctr::Ctr128BE<aes::Aes192>>(key, iv)?,
        32 => with::<ctr::Ctr128BE<aes::Aes256>>(key, iv)?,
        _ => return None,
    })
}

fn with<C: StreamCipher + KeyIvInit + 'static>(key: &[u8], iv: [u8; BLOCK_SIZE]) -> Option<Decrypt> {
    let key = key.to_vec();
    C::new_from_slices(&key, &iv).ok()?;
    Some(Box::new(move |payload| {
        let mut plain = payload.to_vec();
        // It was made from the same bytes just now.
        if let Ok(mut cipher) = C::new_from_slices(&key, &iv) {
            cipher.apply_keystream(&mut plain);
        }
        plain
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |b: &u8| (*b as char).to_digit(16).unwrap() as u8;
        hex.as_bytes().chunks(2).map(|pair| digit(&pair[0]) << 4 | digit(&pair[1])).collect()
    }

    /// NIST SP 800-38A, F.5.2 and F.5.6.
    #[test]
    fn counter_mode() {
        let counter = bytes("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
        let plain = bytes("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        for (key, sealed) in [
            (
                "2b7e151628aed2a6abf7158809cf4f3c",
                "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff",
            ),
            (
                "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
                "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5",
            ),
        ] {
            let decrypt = decrypt(&bytes(key), &counter).unwrap();
            assert_eq!(decrypt(&bytes(sealed)), plain);
            // Every record starts anew.
            assert_eq!(decrypt(&bytes(sealed)[..20]), plain[..20]);
        }
        assert!(decrypt(&[0; 15], &counter).is_none() && decrypt(&[0; 16], &counter[1..]).is_none());
    }
}
