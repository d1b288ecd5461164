//! Kerberos for listening sources and for clients, over any stream: who is who is found out when a connection
//! is made, by Thrift's SASL negotiation with the mechanism GSSAPI.
//!
//! Flume: `TSaslServerTransport` and `TSaslClientTransport` with `KerberosAuthenticator`. The library's calls
//! read files and may ask a key server, so they run on helper threads; a shard only carries their tokens.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::gssapi::{Context, Credential, Step};
use super::{Io, OpenOptions, Stream, machine, off_core};
use crate::codec::thrift::sasl::{self, HEAD_BYTES, MECHANISM, Status};
use crate::component::OpenError;
use crate::config::kerberos::{ClientKerberos, ServerKerberos};

/// A client's tokens: Kerberos needs two. More means that the other side plays for time.
const STEPS_MAX: usize = 8;

/// What stands for this machine's name in a principal.
const HOST: &str = "_HOST";

/// Replaces `_HOST` as Hadoop does.
fn with_host(principal: &str, host: &str) -> String {
    principal.replace(HOST, &host.to_ascii_lowercase())
}

/// Takes in what clients prove to be.
#[derive(Clone)]
pub struct Acceptor {
    credential: Arc<Credential>,
}

impl Acceptor {
    /// Reads the keys of `agent-principal`.
    ///
    /// # Errors
    /// The library, the key table or the key is missing.
    pub async fn open(io: &Io, settings: &ServerKerberos) -> Result<Self, OpenError> {
        let ServerKerberos { principal, keytab } = settings;
        readable(io, "agent-keytab", keytab).await?;
        let (name, path) = (with_host(principal, &machine::host_name()), keytab.clone());
        let keys = off_core(move || Credential::acceptor(&name, &path)).await;
        let credential =
            keys.map_err(|e| refused("agent-keytab", "agent-principal", principal, keytab, e))?;
        Ok(Self { credential: Arc::new(credential) })
    }

    /// Lets a client prove who it is; gives the stream back with its principal.
    ///
    /// # Errors
    /// Why it is not taken in; the client has been told.
    pub async fn accept(&self, mut stream: Box<dyn Stream>) -> io::Result<(Box<dyn Stream>, String)> {
        match self.negotiate(&mut stream).await {
            Ok(peer) => Ok((stream, peer)),
            Err(Failure::Ours(reason)) => {
                let _ = send(&mut stream, Status::Bad, reason.as_bytes()).await;
                Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("Kerberos: {reason}")))
            }
            Err(Failure::Io(error)) => Err(error),
        }
    }

    async fn negotiate(&self, stream: &mut Box<dyn Stream>) -> Result<String, Failure> {
        let (status, mechanism) = receive(stream).await?;
        if status != Status::Start || mechanism != MECHANISM {
            let name = String::from_utf8_lossy(mechanism.get(..mechanism.len().min(40)).unwrap_or_default());
            return Err(Failure::Ours(format!(
                "the SASL mechanism {name:?} is asked for; only GSSAPI is spoken"
            )));
        }
        let mut context = Context::acceptor(self.credential.clone());
        for _ in 0..STEPS_MAX {
            let token = next_token(stream).await?;
            let step;
            (context, step) = advance(context, token).await?;
            let Step { token: answer, established } = step;
            if established {
                if !answer.is_empty() {
                    send(stream, Status::Ok, &answer).await?;
                    token_of(stream, 0).await?;
                }
                let offer = context.wrap(&sasl::AUTH_ONLY).map_err(Failure::Ours)?;
                send(stream, Status::Ok, &offer).await?;
                let choice = next_token(stream).await?;
                let choice = context.unwrap(&choice).map_err(Failure::Ours)?;
                let peer = context.peer();
                sasl::chosen(&choice, &peer).map_err(Failure::Ours)?;
                send(stream, Status::Complete, &[]).await?;
                return Ok(peer);
            }
            send(stream, Status::Ok, &answer).await?;
        }
        Err(Failure::Ours(format!("no end of the exchange after {STEPS_MAX} tokens")))
    }
}

/// Proves who we are.
#[derive(Clone)]
pub struct Connector {
    settings: Arc<ClientKerberos>,
    principal: Arc<str>,
}

impl Connector {
    /// Gets a first ticket with the keys of `client-principal`. A key server that cannot be reached is no reason
    /// not to start: it is asked again at each connection.
    ///
    /// # Errors
    /// The library, the key table or the key is missing or wrong, or the key server does not know the principal.
    pub async fn open(io: &Io, name: &str, settings: &ClientKerberos) -> Result<Self, OpenError> {
        readable(io, "client-keytab", &settings.keytab).await?;
        let principal = with_host(&settings.principal, &machine::host_name()).into();
        let connector = Self { settings: Arc::new(settings.clone()), principal };
        match connector.credential().await {
            Ok(_) => {}
            // The library has no common code for it: no address, no answer, nobody listens.
            Err(error) if error.contains("Cannot contact any KDC") => tracing::error!(
                sink = name,
                %error,
                "no ticket for {}; trying again at each connection",
                connector.principal
            ),
            Err(error) => {
                let (principal, keytab) = (&connector.principal, &settings.keytab);
                return Err(refused("client-keytab", "client-principal", principal, keytab, error));
            }
        }
        Ok(connector)
    }

    /// Tickets, got anew in the second half of their time; the library keeps them in this process's memory.
    async fn credential(&self) -> Result<Credential, String> {
        let (principal, keytab) = (self.principal.clone(), self.settings.keytab.clone());
        off_core(move || {
            let cache = format!("millrace {principal} {}", keytab.display());
            Credential::initiator(&principal, &keytab, &cache)
        })
        .await
    }

    /// Proves who we are to the server on a host, and has it do the same.
    ///
    /// # Errors
    /// Why one of the two is not taken in.
    pub async fn connect(&self, host: &str, mut stream: Box<dyn Stream>) -> io::Result<Box<dyn Stream>> {
        match self.negotiate(host, &mut stream).await {
            Ok(()) => Ok(stream),
            Err(Failure::Ours(reason)) => {
                let _ = send(&mut stream, Status::Bad, reason.as_bytes()).await;
                Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("Kerberos: {reason}")))
            }
            Err(Failure::Io(error)) => Err(error),
        }
    }

    async fn negotiate(&self, host: &str, stream: &mut Box<dyn Stream>) -> Result<(), Failure> {
        let credential = self.credential().await.map_err(Failure::Ours)?;
        let server = with_host(&self.settings.server, host);
        let wanted = |e: String| Failure::Ours(format!("{server}: {e}"));
        let context = Context::initiator(Arc::new(credential), &server).map_err(wanted)?;
        let (mut context, mut step) =
            advance(context, Vec::new()).await.map_err(|failure| match failure {
                Failure::Ours(reason) => wanted(reason),
                other => other,
            })?;
        send(stream, Status::Start, MECHANISM).await?;
        send(stream, Status::Ok, &step.token).await?;
        for _ in 0..STEPS_MAX {
            let token = next_token(stream).await?;
            if step.established {
                let offer = context.unwrap(&token).map_err(Failure::Ours)?;
                sasl::offered(&offer).map_err(Failure::Ours)?;
                let choice = context.wrap(&sasl::AUTH_ONLY).map_err(Failure::Ours)?;
                send(stream, Status::Complete, &choice).await?;
                return match receive(stream).await? {
                    (Status::Complete, _) => Ok(()),
                    (status, _) => {
                        Err(Failure::Ours(format!("{status:?} instead of the end of the negotiation")))
                    }
                };
            }
            (context, step) = advance(context, token).await?;
            send(stream, Status::Ok, &step.token).await?;
        }
        Err(Failure::Ours(format!("no end of the exchange after {STEPS_MAX} tokens")))
    }
}

enum Failure {
    Io(io::Error),
    /// Our own judgement; the other side is told.
    Ours(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A step of the exchange on a helper thread.
async fn advance(mut context: Context, token: Vec<u8>) -> Result<(Context, Step), Failure> {
    let (context, step) = off_core(move || {
        let step = context.step(&token);
        (context, step)
    })
    .await;
    Ok((context, step.map_err(Failure::Ours)?))
}

async fn send(stream: &mut Box<dyn Stream>, status: Status, content: &[u8]) -> io::Result<()> {
    stream.write_all(&sasl::message(status, content)).await?;
    stream.flush().await
}

/// The next message; what the other side complains about is an error.
async fn receive(stream: &mut Box<dyn Stream>) -> io::Result<(Status, Vec<u8>)> {
    let mut first = [0; HEAD_BYTES];
    stream.read_exact(&mut first).await.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(
            error.kind(),
            "the other side left in the middle of the Kerberos negotiation; kerberos, ssl or protocol may differ on the two sides",
        ),
        _ => error,
    })?;
    let (status, size) = sasl::head(first).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let mut content = vec![0; size];
    stream.read_exact(&mut content).await?;
    if matches!(status, Status::Bad | Status::Error) {
        let reason = String::from_utf8_lossy(content.get(..size.min(500)).unwrap_or_default()).into_owned();
        let reason = format!("Kerberos: the other side does not go on: {reason}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    Ok((status, content))
}

/// The next token.
async fn next_token(stream: &mut Box<dyn Stream>) -> Result<Vec<u8>, Failure> {
    match receive(stream).await? {
        (Status::Ok | Status::Complete, token) => Ok(token),
        (status, _) => Err(Failure::Ours(format!("{status:?} instead of a token"))),
    }
}

/// A token that has this size.
async fn token_of(stream: &mut Box<dyn Stream>, size: usize) -> Result<(), Failure> {
    let token = next_token(stream).await?;
    if token.len() == size {
        return Ok(());
    }
    Err(Failure::Ours(format!("a token of {} bytes where {size} are due", token.len())))
}

/// A file that cannot be read is told apart from one that is wrong.
async fn readable(io: &Io, property: &'static str, path: &Path) -> Result<(), OpenError> {
    match io.open(path, OpenOptions::READ).await {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(OpenError::new(property, path.display().to_string(), format!("cannot be read: {error}"))
                .hint("let the user of this process read the key table"))
        }
    }
}

/// The library's refusal, with the property to look at and how.
fn refused(
    keytab_property: &'static str,
    principal_property: &'static str,
    principal: &str,
    keytab: &Path,
    error: String,
) -> OpenError {
    let hint = format!("look at: klist -k {0}; kinit -k -t {0} {principal}", keytab.display());
    if error.contains("libgssapi") {
        return OpenError::new("kerberos", "true", error);
    }
    if error.contains("not found in Kerberos database") {
        return OpenError::new(principal_property, principal, error).hint(hint);
    }
    OpenError::new(
        keytab_property,
        keytab.display().to_string(),
        format!("gives no way in for {principal}: {error}"),
    )
    .hint(hint)
}
