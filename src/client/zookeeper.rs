//! Reads and watches nodes of a ZooKeeper: as much of its protocol as that takes.
//!
//! Source: ZooKeeper's `zookeeper.jute`. Every message is a length (u32) and a record, big-endian: a request
//! begins with its number and type, an answer with number, transaction and error. A session lives by pings. One that
//! is lost is given up and a new one made by the caller, since nothing but a watch belongs to it.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::io::{Io, Stream};

/// Largest message that is read. Servers refuse nodes above 1 MiB unless told otherwise.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Time for a connection and for each answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Session length asked for; the server says what it gives.
const SESSION: Duration = Duration::from_secs(60);

const EXISTS: i32 = 3;
const GET_DATA: i32 = 4;
const PING: i32 = 11;
const CLOSE: i32 = -11;
const WATCH_EVENT: i32 = -1;
const PING_ANSWER: i32 = -2;
const NO_NODE: i32 = -101;

/// A session with one server.
pub struct Session {
    io: Io,
    stream: Box<dyn Stream>,
    input: BytesMut,
    number: i32,
    timeout: Duration,
    root: String,
    /// A watch has fired and nobody was told yet.
    fired: bool,
}

/// `host:port,host:port/root` taken apart: hosts with ports, and the root, empty or `/…`.
///
/// # Errors
/// What is wrong with it.
pub fn servers(text: &str) -> Result<(Vec<(String, u16)>, String), String> {
    let (hosts, root) = match text.find('/') {
        Some(at) => (&text[..at], text[at..].trim_end_matches('/')),
        None => (text, ""),
    };
    let one = |host: &str| {
        let wrong = || format!("{host:?} is no host:port");
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !name.is_empty() => (name, port.parse().map_err(|_| wrong())?),
            Some(_) => return Err(wrong()),
            None => (host, 2181),
        };
        Ok((name.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
    };
    let hosts: Vec<_> =
        hosts.split(',').map(str::trim).filter(|h| !h.is_empty()).map(one).collect::<Result<_, String>>()?;
    if hosts.is_empty() {
        return Err("names no server".to_owned());
    }
    Ok((hosts, root.to_owned()))
}

impl Session {
    /// Connects to the first server that answers, beginning with a random one.
    ///
    /// # Errors
    /// None answers; why the last one does not.
    pub async fn connect(io: &Io, text: &str) -> io::Result<Self> {
        let (hosts, root) = servers(text).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let first = io.random() as usize % hosts.len();
        let mut problem = io::Error::new(io::ErrorKind::NotFound, "no address");
        for index in 0..hosts.len() {
            let (host, port) = &hosts[(first + index) % hosts.len()];
            let addresses = match io.resolve(host, *port).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    problem = io::Error::new(error.kind(), format!("{host}: {error}"));
                    continue;
                }
            };
            for address in addresses {
                let opened = Self::open(io, address, &root);
                match limited(io, opened).await {
                    Ok(session) => return Ok(session),
                    Err(error) => problem = io::Error::new(error.kind(), format!("{address}: {error}")),
                }
            }
        }
        Err(problem)
    }

    async fn open(io: &Io, address: std::net::SocketAddr, root: &str) -> io::Result<Self> {
        let stream = io.connect(address).await?;
        let mut session = Self {
            io: io.clone(),
            stream,
            input: BytesMut::new(),
            number: 0,
            timeout: SESSION,
            root: root.to_owned(),
            fired: false,
        };
        let mut hello = BytesMut::new();
        hello.put_i32(0);
        hello.put_i64(0);
        hello.put_i32(SESSION.as_millis() as i32);
        hello.put_i64(0);
        hello.put_i32(16);
        hello.put_bytes(0, 16);
        hello.put_u8(0);
        session.send(&hello).await?;
        let mut answer = session.message().await?;
        answer.try_get_i32().map_err(short)?;
        let timeout = answer.try_get_i32().map_err(short)?;
        if timeout <= 0 {
            return Err(io::Error::other("the server gives no session"));
        }
        session.timeout = Duration::from_millis(timeout as u64);
        Ok(session)
    }

    async fn send(&mut self, record: &[u8]) -> io::Result<()> {
        let mut message = BytesMut::with_capacity(record.len() + 4);
        message.put_u32(record.len() as u32);
        message.put_slice(record);
        self.stream.write_all(&message).await?;
        self.stream.flush().await
    }

    /// The next message. Nothing is lost if the future is dropped.
    async fn message(&mut self) -> io::Result<BytesMut> {
        loop {
            if let Some(size) = self.input.first_chunk::<4>() {
                let size = u32::from_be_bytes(*size) as usize;
                if size > MESSAGE_BYTES_MAX {
                    return Err(io::Error::other(format!("a message of {size} bytes")));
                }
                if self.input.len() >= size + 4 {
                    let mut message = self.input.split_to(size + 4);
                    message.advance(4);
                    return Ok(message);
                }
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Sends a request and waits for its answer: the error, 0 if none, and the record behind it.
    async fn ask(&mut self, kind: i32, path: &str, watch: bool) -> io::Result<(i32, BytesMut)> {
        self.number += 1;
        let number = self.number;
        let path = format!("{}{path}", self.root);
        let mut request = BytesMut::new();
        request.put_i32(number);
        request.put_i32(kind);
        request.put_i32(path.len() as i32);
        request.put_slice(path.as_bytes());
        request.put_u8(watch.into());
        self.send(&request).await?;
        let io = self.io.clone();
        let answer = async {
            loop {
                let (got, error, record) = self.reply().await?;
                if got == number {
                    return Ok((error, record));
                }
            }
        };
        limited(&io, answer).await
    }

    /// The next answer's number, error and record; notes watches that fired.
    async fn reply(&mut self) -> io::Result<(i32, i32, BytesMut)> {
        let mut message = self.message().await?;
        let number = message.try_get_i32().map_err(short)?;
        message.try_get_i64().map_err(short)?;
        let error = message.try_get_i32().map_err(short)?;
        self.fired |= number == WATCH_EVENT;
        Ok((number, error, message))
    }

    /// A node's content, `None` if it is not there. With `watch` the next change, removal or creation of the
    /// node is told by [`Session::changed`].
    ///
    /// # Errors
    /// The connection broke, or the server refuses.
    pub async fn read(&mut self, path: &str, watch: bool) -> io::Result<Option<Vec<u8>>> {
        let refused = |error: i32| io::Error::other(format!("{path}: the server answers with error {error}"));
        match self.ask(EXISTS, path, watch).await? {
            (0, _) => {}
            (NO_NODE, _) => return Ok(None),
            (error, _) => return Err(refused(error)),
        }
        match self.ask(GET_DATA, path, false).await? {
            (0, mut record) => {
                let size = record.try_get_i32().map_err(short)?;
                // -1 stands for a node without content.
                let size = usize::try_from(size).unwrap_or(0);
                match record.get(..size) {
                    Some(content) => Ok(Some(content.to_vec())),
                    None => Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
            (NO_NODE, _) => Ok(None),
            (error, _) => Err(refused(error)),
        }
    }

    /// Waits until a watch fires; keeps the session alive meanwhile.
    ///
    /// # Errors
    /// The session is lost.
    pub async fn changed(&mut self) -> io::Result<()> {
        let mut unanswered = 0;
        while !std::mem::take(&mut self.fired) {
            let pause = self.io.sleep(self.timeout / 3);
            tokio::select! {
                reply = self.reply() => {
                    if reply?.0 == PING_ANSWER {
                        unanswered = 0;
                    }
                }
                () = pause => {
                    if unanswered == 2 {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    unanswered += 1;
                    let mut ping = BytesMut::new();
                    ping.put_i32(PING_ANSWER);
                    ping.put_i32(PING);
                    self.send(&ping).await?;
                }
            }
        }
        Ok(())
    }

    /// Ends the session, so that the server need not wait for it to expire.
    pub async fn close(mut self) {
        let mut request = BytesMut::new();
        request.put_i32(self.number + 1);
        request.put_i32(CLOSE);
        let _ = self.send(&request).await;
    }
}

fn short(_: bytes::TryGetError) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a message is cut short")
}

async fn limited<T>(io: &Io, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::select! {
        value = future => value,
        () = io.sleep(PATIENCE) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings() {
        let host = |name: &str, port| (name.to_owned(), port);
        for (text, hosts, root) in [
            ("h:1", vec![host("h", 1)], ""),
            ("h", vec![host("h", 2181)], ""),
            ("a:1, b:2/x/y/", vec![host("a", 1), host("b", 2)], "/x/y"),
            ("[::1]:2181", vec![host("::1", 2181)], ""),
        ] {
            assert_eq!(servers(text), Ok((hosts, root.to_owned())), "{text}");
        }
        for text in ["", "/x", "h:x", ":1", "h:99999"] {
            assert!(servers(text).is_err(), "{text}");
        }
    }
}
