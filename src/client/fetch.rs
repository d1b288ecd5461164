//! Fetches a page over HTTP or HTTPS, if it has changed.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::header::{self, HeaderValue};
use hyper::{Request, StatusCode, Uri};

use crate::config::tls::ClientTls;
use crate::io::tls::Connector;
use crate::io::{Io, Stream, spawn};

/// Largest page that is read; a flow of ten thousand lines has under 1 MiB.
const PAGE_BYTES_MAX: usize = 16 << 20;
/// Time for the whole exchange.
const PATIENCE: Duration = Duration::from_secs(30);

/// An `http` or `https` address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    uri: Uri,
    host: String,
    port: u16,
    is_tls: bool,
}

impl Url {
    /// Reads an address.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|e| format!("not a URL ({e})"))?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("not a URL that begins with http:// or https://".to_owned()),
        };
        let host = uri.host().filter(|h| !h.is_empty()).ok_or("a URL without a host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self { uri, host, port, is_tls })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without a user and password that may stand in it.
        let path = self.uri.path_and_query().map_or("/", |p| p.as_str());
        write!(f, "{}://{}:{}{path}", if self.is_tls { "https" } else { "http" }, self.host, self.port)
    }
}

/// A user and password for basic authentication.
#[derive(Clone)]
pub struct Login {
    /// Name.
    pub user: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({}, [secret])", self.user)
    }
}

/// A page's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Content.
    pub bytes: Vec<u8>,
    /// The server's `Last-Modified`, to ask with the next time.
    pub last_modified: Option<String>,
}

/// Fetches a page; `None` if it has not changed since.
///
/// # Errors
/// Why it cannot be had.
pub async fn get(
    io: &Io,
    url: &Url,
    login: Option<&Login>,
    tls: &ClientTls,
    since: Option<&str>,
) -> Result<Option<Page>, String> {
    tokio::select! {
        answer = exchange(io, url, login, tls, since) => answer,
        () = io.sleep(PATIENCE) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

async fn exchange(
    io: &Io,
    url: &Url,
    login: Option<&Login>,
    tls: &ClientTls,
    since: Option<&str>,
) -> Result<Option<Page>, String> {
    let stream = connect(io, url, tls).await?;
    let stream = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.map_err(|e| e.to_string())?;
    // Ends when the sender is dropped.
    spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection broke");
        }
    });
    let mut request = Request::new(Empty::<Bytes>::new());
    let target = url.uri.path_and_query().map_or("/", |p| p.as_str());
    *request.uri_mut() = target.parse().map_err(|_| "a path no request can have".to_owned())?;
    let headers = request.headers_mut();
    let value = |text: &str| HeaderValue::from_str(text).map_err(|e| e.to_string());
    let host = url.uri.authority().map_or("", |a| a.as_str());
    headers.insert(header::HOST, value(host.rsplit('@').next().unwrap_or(host))?);
    headers.insert(header::ACCEPT, HeaderValue::from_static("text/x-java-properties, */*"));
    if let Some(since) = since {
        headers.insert(header::IF_MODIFIED_SINCE, value(since)?);
    }
    if let Some(login) = login {
        let text = STANDARD.encode(format!("{}:{}", login.user, login.password));
        let mut text = value(&format!("Basic {text}"))?;
        text.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, text);
    }
    let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = answer.status();
    if status == StatusCode::NOT_MODIFIED {
        return Ok(None);
    }
    if status.is_redirection() {
        let to = answer.headers().get(header::LOCATION).and_then(|l| l.to_str().ok()).unwrap_or("elsewhere");
        return Err(format!("the server answers {status} and points to {to}; name that address"));
    }
    if status == StatusCode::UNAUTHORIZED {
        return Err(format!("the server answers {status}; give --conf-user and --conf-password"));
    }
    if status != StatusCode::OK {
        return Err(format!("the server answers {status}"));
    }
    let last_modified =
        answer.headers().get(header::LAST_MODIFIED).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| e.to_string())?;
        bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d));
        if bytes.len() > PAGE_BYTES_MAX {
            return Err(format!("more than {PAGE_BYTES_MAX} bytes"));
        }
    }
    Ok(Some(Page { bytes, last_modified }))
}

async fn connect(io: &Io, url: &Url, tls: &ClientTls) -> Result<Box<dyn Stream>, String> {
    let mut problem = format!("{} has no address", url.host);
    for address in io.resolve(&url.host, url.port).await.map_err(|e| format!("{}: {e}", url.host))? {
        match io.connect(address).await {
            Ok(stream) if url.is_tls => {
                let connector = Connector::open(io, &ClientTls { verify_host: true, ..tls.clone() })
                    .await
                    .map_err(|e| e.to_string())?;
                return connector.connect(&url.host, stream).await.map_err(|e| e.to_string());
            }
            Ok(stream) => return Ok(stream),
            Err(error) => problem = format!("{address}: {error}"),
        }
    }
    Err(problem)
}
