//! What reads requests: Flume's three handlers.

use std::borrow::Cow;

use bytes::Bytes;

use crate::codec::charset::Charset;
use crate::codec::flume_json;
use crate::event::{EventBatch, Headers};

/// Class names of the handlers.
pub(super) const JSON_CLASS: &str = "org.apache.flume.source.http.JSONHandler";
const BLOB_CLASS: &str = "org.apache.flume.source.http.BLOBHandler";
const MORPHLINE_BLOB_CLASS: &str = "org.apache.flume.sink.solr.morphline.BlobHandler";

/// One of Flume's handlers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Handler {
    /// An array of events.
    Json,
    /// The body is one event; these parameters must be there.
    Blob { mandatory: Vec<String> },
    /// The body is one event, cut off behind so many bytes.
    CutBlob { bytes_max: usize },
}

/// Why a request has no events; Flume's two classes of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 400
    BadRequest(String),
    /// 500
    Unexpected(String),
}

/// What a handler sees of a request.
pub(super) struct Request<'a> {
    pub(super) query: &'a str,
    pub(super) content_type: Option<&'a str>,
    pub(super) body: Bytes,
}

impl Handler {
    /// Finds a handler by its class name.
    pub(super) fn named(class: &str, mandatory: Vec<String>, bytes_max: usize) -> Result<Self, String> {
        match class {
            JSON_CLASS => Ok(Self::Json),
            BLOB_CLASS => Ok(Self::Blob { mandatory }),
            MORPHLINE_BLOB_CLASS => Ok(Self::CutBlob { bytes_max }),
            _ => Err(format!(
                "not a handler this program has (handlers of your own are Java classes); it has {JSON_CLASS}, {BLOB_CLASS} \
                 and {MORPHLINE_BLOB_CLASS}"
            )),
        }
    }

    /// Bytes of a body behind which the rest is cut off; `None`: a longer body than allowed is refused.
    pub(super) fn cuts_behind(&self) -> Option<usize> {
        match self {
            Self::CutBlob { bytes_max } => Some(*bytes_max),
            Self::Json | Self::Blob { .. } => None,
        }
    }

    /// The events of a request.
    pub(super) fn events(&self, request: Request<'_>) -> Result<EventBatch, Refusal> {
        match self {
            Self::Json => json(&request),
            Self::Blob { mandatory } => {
                let (headers, body) = parameters(&request);
                match mandatory.iter().find(|name| headers.get(name).is_none()) {
                    Some(name) => {
                        Err(Refusal::Unexpected(format!("Please specify {name} parameter in the request.")))
                    }
                    None => Ok(EventBatch::single(headers, body)),
                }
            }
            Self::CutBlob { .. } => {
                let (headers, body) = parameters(&request);
                Ok(EventBatch::single(headers, body))
            }
        }
    }
}

fn json(request: &Request<'_>) -> Result<EventBatch, Refusal> {
    let name = request.content_type.and_then(charset_of).unwrap_or(Cow::Borrowed("utf-8"));
    let charset = match name.to_ascii_lowercase().as_str() {
        "utf-8" | "utf8" => Charset::Utf8,
        "utf-16" => Charset::Utf16,
        "utf-32" => Charset::Utf32,
        _ => {
            let message = format!("JSON handler supports UTF-8, UTF-16 and UTF-32 only, not {name:?}.");
            return Err(Refusal::Unexpected(message));
        }
    };
    flume_json::read_events(&charset.decode(&request.body), charset).map_err(|error| {
        match error.is_missing_event {
            true => Refusal::Unexpected(error.to_string()),
            false => Refusal::BadRequest(format!("Request has invalid JSON Syntax: {error}")),
        }
    })
}

/// The charset parameter of a content type.
fn charset_of(content_type: &str) -> Option<Cow<'_, str>> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        (name.trim().eq_ignore_ascii_case("charset") && !value.is_empty()).then_some(Cow::Borrowed(value))
    })
}

/// The request's parameters, the first of each name, and the body: of a form nothing but its fields is
/// left, as with a servlet.
fn parameters(request: &Request<'_>) -> (Headers, Bytes) {
    let mut headers = Headers::new();
    let mut add = |text: &[u8]| {
        for (name, value) in form_urlencoded::parse(text) {
            if headers.get(&name).is_none() {
                headers.insert(&*name, &*value);
            }
        }
    };
    add(request.query.as_bytes());
    let media_type = request.content_type.and_then(|t| t.split(';').next()).unwrap_or_default().trim();
    let body = match media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        true => {
            // Bounded: looking names up is quadratic, and a servlet stops at 1000 fields too.
            let fields = request.body.split(|b| *b == b'&').take(FORM_FIELDS_MAX);
            fields.for_each(&mut add);
            Bytes::new()
        }
        false => request.body.clone(),
    };
    (headers, body)
}

/// Most fields of a form that count.
const FORM_FIELDS_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn events(
        handler: &Handler,
        query: &str,
        content_type: Option<&str>,
        body: &[u8],
    ) -> Result<EventBatch, Refusal> {
        handler.events(Request { query, content_type, body: Bytes::copy_from_slice(body) })
    }
    fn headers(batch: &EventBatch) -> Vec<String> {
        batch.headers(0).map(|(k, v)| format!("{k}={v}")).collect()
    }

    #[test]
    fn charsets_of_json() {
        let utf16: Vec<u8> = "[{\"body\":\"\u{e9}\"}]".encode_utf16().flat_map(u16::to_be_bytes).collect();
        for (content_type, body, expected) in [
            (None, "[{\"body\":\"\u{e9}\"}]".as_bytes(), "\u{e9}".as_bytes()),
            (Some("application/json"), "[{\"body\":\"\u{e9}\"}]".as_bytes(), "\u{e9}".as_bytes()),
            (
                Some("application/json; charset=UTF-8"),
                "[{\"body\":\"\u{e9}\"}]".as_bytes(),
                "\u{e9}".as_bytes(),
            ),
            (Some("application/json;Charset=\"utf-16\""), &utf16, &[0xfe, 0xff, 0, 0xe9]),
            (None, b"[{\"body\":\"\xff\"}]", "\u{fffd}".as_bytes()),
        ] {
            let batch = events(&Handler::Json, "", content_type, body).unwrap();
            assert_eq!(batch.body(0), expected, "{content_type:?}");
        }
        let refused = events(&Handler::Json, "", Some("text/plain; charset=iso-8859-1"), b"[]");
        assert!(
            matches!(refused, Err(Refusal::Unexpected(text)) if text.contains("UTF-8, UTF-16 and UTF-32 only"))
        );
    }

    #[test]
    fn wrong_json_is_the_clients_fault_and_nothing_is_unexpected() {
        assert!(matches!(events(&Handler::Json, "", None, b"[{"), Err(Refusal::BadRequest(_))));
        assert!(matches!(events(&Handler::Json, "", None, b""), Err(Refusal::Unexpected(_))));
        assert!(matches!(events(&Handler::Json, "", None, b"null"), Err(Refusal::Unexpected(_))));
        assert_eq!(events(&Handler::Json, "", None, b"[]").unwrap().len(), 0);
    }

    #[test]
    fn parameters_become_headers() {
        let blob = Handler::Blob { mandatory: vec!["param1".to_owned()] };
        let batch = events(&blob, "param1=a%20b+c&param2=x&param1=later", None, b"\x00any\xff").unwrap();
        assert_eq!(headers(&batch), ["param1=a b c", "param2=x"]);
        assert_eq!(batch.body(0), b"\x00any\xff");
        let refused = events(&blob, "param2=x", None, b"");
        assert_eq!(
            refused.unwrap_err(),
            Refusal::Unexpected("Please specify param1 parameter in the request.".to_owned())
        );
        let form = Some("application/x-www-form-urlencoded; charset=utf-8");
        let batch = events(&blob, "a=1", form, b"param1=p&a=2").unwrap();
        assert_eq!(
            (headers(&batch), batch.body(0)),
            (vec!["a=1".to_owned(), "param1=p".to_owned()], &b""[..])
        );
    }

    #[test]
    fn handlers_by_class() {
        assert_eq!(Handler::named(JSON_CLASS, Vec::new(), 1), Ok(Handler::Json));
        assert_eq!(
            Handler::named(MORPHLINE_BLOB_CLASS, Vec::new(), 7),
            Ok(Handler::CutBlob { bytes_max: 7 })
        );
        assert!(
            Handler::named("com.example.Mine", Vec::new(), 1).unwrap_err().contains("handlers of your own")
        );
    }
}
