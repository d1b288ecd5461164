//! Messages of Thrift's SASL negotiation, and the one thing the mechanism GSSAPI says itself.
//!
//! A message is a status, a length (big-endian, 32 bits) and so many bytes (`TSaslTransport`). After the last one
//! the connection carries frames as without SASL, because Flume asks for authentication only (`auth`), which
//! neither signs nor encrypts what follows.

/// The mechanism.
pub const MECHANISM: &[u8] = b"GSSAPI";
/// A token with the privileges of a Windows domain can have 64 KiB; nothing has more.
pub const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Bytes before the content.
pub const HEAD_BYTES: usize = 5;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The mechanism's name; the client's first message.
    Start,
    /// A token; more follows.
    Ok,
    /// The other side's token is not accepted; the content says why.
    Bad,
    /// Something else went wrong; the content says what.
    Error,
    /// The last token.
    Complete,
}

/// A message with this content.
pub fn message(status: Status, content: &[u8]) -> Vec<u8> {
    let number = match status {
        Status::Start => 1,
        Status::Ok => 2,
        Status::Bad => 3,
        Status::Error => 4,
        Status::Complete => 5,
    };
    let mut out = Vec::with_capacity(HEAD_BYTES + content.len());
    out.push(number);
    out.extend_from_slice(&u32::try_from(content.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(content);
    out
}

/// Status and size of the content.
///
/// # Errors
/// What is wrong with them.
pub fn head(bytes: [u8; HEAD_BYTES]) -> Result<(Status, usize), String> {
    let [status, a, b, c, d] = bytes;
    let status = match status {
        1 => Status::Start,
        2 => Status::Ok,
        3 => Status::Bad,
        4 => Status::Error,
        5 => Status::Complete,
        other => {
            return Err(format!(
                "no message of a SASL negotiation (status {other}); kerberos, ssl or protocol may differ on the two sides"
            ));
        }
    };
    let size = u32::from_be_bytes([a, b, c, d]) as usize;
    if size > MESSAGE_BYTES_MAX {
        return Err(format!("a negotiation message of {size} bytes, more than {MESSAGE_BYTES_MAX}"));
    }
    Ok((status, size))
}

/// RFC 4752 §3: what a server offers and a client chooses, to be signed: authentication only, and so no buffers.
pub const AUTH_ONLY: [u8; 4] = [1, 0, 0, 0];

/// Reads a server's offer.
///
/// # Errors
/// It insists on more than authentication, or is malformed.
pub fn offered(content: &[u8]) -> Result<(), String> {
    match content {
        [layers, _, _, _] if layers & 1 != 0 => Ok(()),
        [_, _, _, _] => Err("the other side insists on a SASL security layer (auth-int or auth-conf), which Flume does not use".to_owned()),
        _ => Err(format!("an offer of {} bytes instead of 4", content.len())),
    }
}

/// Reads a client's choice; `peer` is who it proved to be.
///
/// # Errors
/// It chose what was not offered, wants to be somebody else, or is malformed.
pub fn chosen(content: &[u8], peer: &str) -> Result<(), String> {
    match content {
        [1, _, _, _, rest @ ..] if rest.is_empty() || rest == peer.as_bytes() => Ok(()),
        [1, _, _, _, rest @ ..] => {
            let other =
                String::from_utf8_lossy(rest.get(..rest.len().min(100)).unwrap_or_default()).into_owned();
            Err(format!("{peer} asks to be taken for {other:?}"))
        }
        [layer, _, _, _, ..] => {
            Err(format!("the client chose the security layer {layer}, which was not offered"))
        }
        _ => Err(format!("a choice of {} bytes", content.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_written() {
        for status in [Status::Start, Status::Ok, Status::Bad, Status::Error, Status::Complete] {
            let bytes = message(status, b"token");
            let first = bytes.first_chunk::<HEAD_BYTES>().copied().unwrap();
            assert_eq!(head(first), Ok((status, 5)));
            assert_eq!(&bytes[HEAD_BYTES..], b"token");
        }
        // As Flume 1.11 sends it first.
        assert_eq!(message(Status::Start, MECHANISM), b"\x01\x00\x00\x00\x06GSSAPI");
    }

    #[test]
    fn nonsense_is_refused() {
        for (bytes, complaint) in [
            ([0, 0, 0, 0, 9], "status 0"),
            ([22, 3, 1, 0, 0], "status 22"),
            ([2, 0x7f, 0xff, 0xff, 0xff], "2147483647 bytes"),
            ([2, 0, 2, 0, 1], "131073 bytes"),
        ] {
            let error = head(bytes).unwrap_err();
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn only_authentication_is_agreed_on() {
        assert!(offered(&[1, 0, 0, 0]).is_ok() && offered(&[7, 0, 255, 255]).is_ok());
        assert!(offered(&[6, 0, 255, 255]).unwrap_err().contains("auth-int"));
        assert!(offered(&[1, 0]).is_err() && offered(&[1, 0, 0, 0, 0]).is_err());
        assert!(chosen(&[1, 0, 0, 0], "a@R").is_ok() && chosen(b"\x01\0\0\0a@R", "a@R").is_ok());
        assert!(chosen(b"\x01\0\0\0root@R", "a@R").unwrap_err().contains("root@R"));
        assert!(chosen(&[4, 0, 0, 0], "a@R").is_err() && chosen(&[], "a@R").is_err());
    }
}
