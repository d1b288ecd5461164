//! Flume's Avro protocol and the handshake that precedes the first call of a connection.
//!
//! Avro specification, "Handshake". Between two Millrace processes the handshake's `meta` maps also carry an
//! offer (client) and its acceptance (server) under [`OFFER_KEY`]; anybody else leaves them alone.

use bytes::{BufMut, BytesMut};

use super::datum::{DatumError, Reader, put_bytes, put_long};

/// Text of Flume's `AvroSourceProtocol`, as every Flume since 1.5 sends it.
pub const TEXT: &str = include_str!("flume.avpr");
/// MD5 of [`TEXT`].
pub const HASH: [u8; 16] =
    [0x86, 0xaa, 0xda, 0xe2, 0xc4, 0x54, 0x74, 0xc0, 0xfe, 0x93, 0xff, 0xd0, 0xf2, 0x35, 0x0a, 0x65];
/// Key of our offer in the handshake's meta map.
pub const OFFER_KEY: &[u8] = b"millrace";
/// The message of our own.
pub const COLUMNS: &[u8] = b"millrace.columns";
/// Metadata key of an answer that says why a batch was refused.
pub const REASON_KEY: &[u8] = b"millrace.reason";

/// What two Millrace processes can do beyond Flume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Batches by column, see [`crate::codec::columns`].
    pub columns: bool,
    /// Their compression with zstd.
    pub zstd: bool,
}

impl Offer {
    /// As words.
    pub fn to_text(self) -> &'static str {
        match (self.columns, self.zstd) {
            (true, true) => "columns/1 zstd",
            (true, false) => "columns/1",
            (false, _) => "",
        }
    }
    /// From words; unknown ones are a later release's and mean nothing.
    pub fn from_text(text: &[u8]) -> Self {
        let mut offer = Self::default();
        for word in text.split(|b| *b == b' ') {
            match word {
                b"columns/1" => offer.columns = true,
                b"zstd" => offer.zstd = true,
                _ => {}
            }
        }
        offer
    }
    /// What both can do.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { columns: self.columns && other.columns, zstd: self.zstd && other.zstd }
    }
}

/// The client's half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeRequest<'a> {
    /// MD5 of the client's protocol.
    pub client_hash: [u8; 16],
    /// The client's protocol, once the server asked for it.
    pub client_protocol: Option<&'a [u8]>,
    /// MD5 of the protocol the client believes the server has.
    pub server_hash: [u8; 16],
    /// Our offer, if any.
    pub offer: Offer,
}

fn hash(reader: &mut Reader<'_>) -> Result<[u8; 16], DatumError> {
    reader.fixed(16)?.try_into().map_err(|_| DatumError::End)
}

fn offer(reader: &mut Reader<'_>) -> Result<Offer, DatumError> {
    let mut offer = Offer::default();
    if reader.optional()? {
        reader.map(|key, value| {
            if key == OFFER_KEY {
                offer = Offer::from_text(value);
            }
        })?;
    }
    Ok(offer)
}

fn put_offer(out: &mut BytesMut, offer: Offer) {
    put_long(out, 1);
    put_bytes(out, OFFER_KEY);
    put_bytes(out, offer.to_text().as_bytes());
    put_long(out, 0);
}

impl<'a> HandshakeRequest<'a> {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn read(reader: &mut Reader<'a>) -> Result<Self, DatumError> {
        let client_hash = hash(reader)?;
        let client_protocol = if reader.optional()? { Some(reader.bytes()?) } else { None };
        Ok(Self { client_hash, client_protocol, server_hash: hash(reader)?, offer: offer(reader)? })
    }
    /// Writes it; without an offer the meta map is present and empty, as Java's.
    pub fn put(&self, out: &mut BytesMut) {
        out.put_slice(&self.client_hash);
        match self.client_protocol {
            Some(text) => {
                put_long(out, 1);
                put_bytes(out, text);
            }
            None => put_long(out, 0),
        }
        out.put_slice(&self.server_hash);
        put_long(out, 1);
        if self.offer == Offer::default() {
            put_long(out, 0);
        } else {
            put_offer(out, self.offer);
        }
    }
}

/// How far the two protocols are known to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Both sides know the other's.
    Both,
    /// The server knows the client's; it sends its own.
    Client,
    /// The server asks for the client's and sends its own. The call was not made.
    None,
}

/// The server's half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeResponse {
    /// How far it went.
    pub matched: Match,
    /// MD5 of the server's protocol, unless the client knew it.
    pub server_hash: Option<[u8; 16]>,
    /// What the server accepted of our offer.
    pub offer: Offer,
}

impl HandshakeResponse {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DatumError> {
        let matched = match reader.long()? {
            0 => Match::Both,
            1 => Match::Client,
            2 => Match::None,
            other => return Err(DatumError::Branch(other)),
        };
        if reader.optional()? {
            reader.bytes()?;
        }
        let server_hash = if reader.optional()? { Some(hash(reader)?) } else { None };
        Ok(Self { matched, server_hash, offer: offer(reader)? })
    }
    /// Writes it with our protocol's text where the client has to learn it.
    pub fn put(&self, out: &mut BytesMut) {
        put_long(
            out,
            match self.matched {
                Match::Both => 0,
                Match::Client => 1,
                Match::None => 2,
            },
        );
        match self.server_hash {
            Some(hash) => {
                put_long(out, 1);
                put_bytes(out, TEXT.as_bytes());
                put_long(out, 1);
                out.put_slice(&hash);
            }
            None => out.put_slice(&[0, 0]),
        }
        if self.offer == Offer::default() {
            put_long(out, 0);
        } else {
            put_long(out, 1);
            put_offer(out, self.offer);
        }
    }
}

/// Checks that a protocol text describes the calls this program answers.
///
/// # Errors
/// What differs.
pub fn check(text: &[u8]) -> Result<(), String> {
    let protocol: serde_json::Value =
        serde_json::from_slice(text).map_err(|e| format!("the client's protocol is not JSON: {e}"))?;
    let event = protocol["types"].as_array().into_iter().flatten().find(|t| t["name"] == "AvroFlumeEvent");
    let Some(event) = event else { return Err("the client's protocol has no AvroFlumeEvent".to_owned()) };
    let fields = event["fields"].as_array().into_iter().flatten();
    let fields: Vec<_> = fields.map(|f| f["name"].as_str().unwrap_or_default()).collect();
    if fields != ["headers", "body"] {
        return Err(format!("AvroFlumeEvent with the fields {fields:?} instead of headers, body"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_responses_come_back() {
        for offer in [Offer::default(), Offer { columns: true, zstd: true }] {
            for client_protocol in [None, Some(TEXT.as_bytes())] {
                let request =
                    HandshakeRequest { client_hash: HASH, client_protocol, server_hash: [7; 16], offer };
                let mut out = BytesMut::new();
                request.put(&mut out);
                assert_eq!(HandshakeRequest::read(&mut Reader::new(&out)), Ok(request));
                for cut in 0..out.len() {
                    assert!(HandshakeRequest::read(&mut Reader::new(&out[..cut])).is_err());
                }
            }
            for (matched, server_hash) in
                [(Match::Both, None), (Match::Client, Some(HASH)), (Match::None, Some(HASH))]
            {
                let response = HandshakeResponse { matched, server_hash, offer };
                let mut out = BytesMut::new();
                response.put(&mut out);
                assert_eq!(HandshakeResponse::read(&mut Reader::new(&out)), Ok(response));
            }
        }
    }

    #[test]
    fn offers_of_later_releases_are_understood_as_far_as_known() {
        assert_eq!(Offer::from_text(b"columns/1 lz5 zstd x"), Offer { columns: true, zstd: true });
        assert_eq!(Offer::from_text(b"columns/2"), Offer::default());
    }

    #[test]
    fn foreign_protocols_are_recognised() {
        assert_eq!(check(TEXT.as_bytes()), Ok(()));
        assert!(check(b"{}").unwrap_err().contains("AvroFlumeEvent"));
        assert!(check(TEXT.replace("\"headers\"", "\"attributes\"").as_bytes()).is_err());
        assert!(check(b"\xff").is_err());
    }
}
