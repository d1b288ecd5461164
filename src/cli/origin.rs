//! Where a flow's text comes from: files, HTTP and ZooKeeper; and its backup.
//!
//! Flume: `ConfigurationSource` and its `File`, `Http` and `ClasspathConfigurationSource`,
//! `PollingZooKeeperConfigurationProvider`.

use std::fmt;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::client::fetch::{self, Login, Page, Url};
use crate::client::zookeeper::Session;
use crate::config::Globals;
use crate::config::tls::{ClientTls, global_truststore};
use crate::config::{Diagnostic, properties};
use crate::io::{EngineKind, Io, run_local};

/// Pause between attempts to reach a ZooKeeper.
pub const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// One place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file.
    File(PathBuf),
    /// A file in the configuration directory, which is first on Flume's class path.
    ClassPath(PathBuf),
    /// A page.
    Http(Url),
    /// A node: servers and path.
    Node(String, String),
}

impl Origin {
    /// Reads the value of `-u`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(uri: &str) -> Result<Self, String> {
        match uri.split_once(':') {
            Some(("file", path)) => Ok(Self::File(PathBuf::from(path.strip_prefix("//").unwrap_or(path)))),
            Some(("classpath", path)) => Ok(Self::ClassPath(PathBuf::from(path.trim_start_matches('/')))),
            Some(("http" | "https", _)) => Url::parse(uri).map(Self::Http),
            Some((scheme, _)) if !scheme.contains('/') => Err(format!(
                "{scheme}: is no scheme flows are read from; there are file, classpath, http, https"
            )),
            _ => Ok(Self::File(PathBuf::from(uri))),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) | Self::ClassPath(path) => write!(f, "{}", path.display()),
            Self::Http(url) => write!(f, "{url}"),
            Self::Node(servers, path) => write!(f, "zookeeper {servers}{path}"),
        }
    }
}

/// Text with the name of the place it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// As shown in messages.
    pub shown: String,
    /// Content.
    pub bytes: Vec<u8>,
}

/// When a file was changed, and how long it is; `None` while it is not there.
type Stamp = Option<(SystemTime, u64)>;

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[derive(Debug)]
enum Seen {
    File(Stamp),
    Page(Option<Page>),
    Node,
}

/// Reads a flow's places and remembers how they were.
#[derive(Debug)]
pub struct Reader {
    origins: Vec<(Origin, Seen)>,
    login: Option<Login>,
    globals: Globals,
}

impl Reader {
    /// Nothing is read yet.
    pub fn new(origins: &[Origin], login: Option<Login>, globals: Globals) -> Self {
        let seen = |origin: &Origin| match origin {
            Origin::File(_) | Origin::ClassPath(_) => Seen::File(None),
            Origin::Http(_) => Seen::Page(None),
            Origin::Node(..) => Seen::Node,
        };
        Self { origins: origins.iter().map(|o| (o.clone(), seen(o))).collect(), login, globals }
    }

    /// The ZooKeeper node, if the flow is in one.
    pub fn node(&self) -> Option<(&str, &str)> {
        self.origins.iter().find_map(|(origin, _)| match origin {
            Origin::Node(servers, path) => Some((servers.as_str(), path.as_str())),
            _ => None,
        })
    }

    /// All texts in order.
    ///
    /// # Errors
    /// The first place that cannot be read.
    #[expect(clippy::result_large_err, reason = "once per start or change")]
    pub fn texts(&mut self) -> Result<Vec<Text>, Diagnostic> {
        let mut texts = Vec::new();
        for (origin, seen) in &mut self.origins {
            let shown = origin.to_string();
            let bytes = match (&*origin, seen) {
                (Origin::File(path) | Origin::ClassPath(path), seen) => {
                    // Looked at before it is read, so that no change falls between.
                    *seen = Seen::File(stamp(path));
                    std::fs::read(path).map_err(|error| unreadable(&shown, &error))?
                }
                (Origin::Http(_), Seen::Page(Some(page))) => page.bytes.clone(),
                (Origin::Http(url), seen) => {
                    let page = fetch(url, self.login.as_ref(), &self.globals, None)
                        .and_then(|page| page.ok_or("the server sends nothing".to_owned()))
                        .map_err(|e| {
                            Diagnostic::error(format!("-u {shown}"), format!("cannot be read: {e}"))
                        })?;
                    *seen = Seen::Page(Some(page.clone()));
                    page.bytes
                }
                (Origin::Node(servers, path), _) => {
                    let content = local(|io| async move { read_node(&io, servers, path).await });
                    let wrong = |what: String| {
                        Diagnostic::error(format!("-z {servers}"), what)
                            .hint("check the servers behind -z and the base path behind -p")
                    };
                    let content = content.map_err(|e| wrong(format!("cannot be read: {e}")))?;
                    content.ok_or_else(|| wrong(format!("there is no node {path}")))?
                }
            };
            texts.push(Text { shown, bytes });
        }
        Ok(texts)
    }

    /// True if a place has changed since it was read or looked at last. For files and pages.
    pub fn changed(&mut self) -> bool {
        let mut changed = false;
        for (origin, seen) in &mut self.origins {
            match (&*origin, seen) {
                (Origin::File(path) | Origin::ClassPath(path), Seen::File(before)) => {
                    let now = stamp(path);
                    changed |= now != *before;
                    *before = now;
                }
                (Origin::Http(url), Seen::Page(page)) => {
                    let since = page.as_ref().and_then(|p| p.last_modified.clone());
                    match fetch(url, self.login.as_ref(), &self.globals, since.as_deref()) {
                        Ok(Some(now)) => {
                            changed |= page.as_ref().is_none_or(|p| p.bytes != now.bytes);
                            *page = Some(now);
                        }
                        Ok(None) => {}
                        Err(problem) => {
                            tracing::warn!("-u {url}: cannot be read: {problem}; the running flow goes on");
                        }
                    }
                }
                _ => {}
            }
        }
        changed
    }

    /// Waits until the flow's ZooKeeper node is there. Flume waits in the same way, without a word.
    pub fn wait_for_node(&self) {
        let Some((servers, path)) = self.node() else { return };
        let waited = local(|io| async move {
            let mut said = false;
            let mut say = |what: String| {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!("-z {servers}: {what}; waiting for it");
                }
            };
            loop {
                match Session::connect(&io, servers).await {
                    Ok(mut session) => loop {
                        match session.read(path, true).await {
                            Ok(Some(_)) => {
                                session.close().await;
                                return Ok(());
                            }
                            Ok(None) => say(format!("there is no node {path}")),
                            Err(error) => {
                                say(error.to_string());
                                break;
                            }
                        }
                        if session.changed().await.is_err() {
                            break;
                        }
                    },
                    Err(error) => say(format!("cannot be reached: {error}")),
                }
                io.sleep(RETRY_PAUSE).await;
            }
        });
        if let Err(error) = waited {
            tracing::error!("-z {servers}: {error}");
        }
    }
}

fn unreadable(shown: &str, error: &std::io::Error) -> Diagnostic {
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound => "check the path behind -f",
        std::io::ErrorKind::IsADirectory => "name a file, not a directory",
        _ => "check the permissions",
    };
    Diagnostic::error(format!("-f {shown}"), format!("cannot be read: {error}")).hint(hint)
}

async fn read_node(io: &Io, servers: &str, path: &str) -> std::io::Result<Option<Vec<u8>>> {
    let mut session = Session::connect(io, servers).await?;
    let content = session.read(path, false).await;
    session.close().await;
    content
}

/// Runs something on this thread, outside of any shard.
fn local<T, F: Future<Output = std::io::Result<T>>>(main: impl FnOnce(Io) -> F) -> std::io::Result<T> {
    run_local(EngineKind::Portable, main)?
}

fn fetch(
    url: &Url,
    login: Option<&Login>,
    globals: &Globals,
    since: Option<&str>,
) -> Result<Option<Page>, String> {
    let tls = ClientTls { truststore: global_truststore(globals), ..ClientTls::default() };
    run_local(EngineKind::Portable, |io| async move { fetch::get(&io, url, login, &tls, since).await })
        .map_err(|e| e.to_string())?
}

/// The file a good flow is kept in: `.<agent>.properties` in the directory of `-b`.
pub fn backup_file(directory: &Path, agent: &str) -> PathBuf {
    directory.join(format!(".{agent}.properties"))
}

/// Keeps a flow. Values are kept as written, so that no password of a config filter gets into the file.
///
/// # Errors
/// The directory cannot be written to.
pub fn keep(directory: &Path, agent: &str, texts: &[Text]) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut out = String::from("# The last flow that started; written by millrace agent -b\n");
    for text in texts {
        for entry in properties::parse(&text.shown, &text.bytes).unwrap_or_default() {
            out.push_str(&properties::line(&entry.key, &entry.value));
        }
    }
    let target = backup_file(directory, agent);
    let fresh = target.with_extension("properties.new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(out.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, &target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        let file = |path: &str| Ok(Origin::File(PathBuf::from(path)));
        for (uri, expected) in [
            ("file:///etc/a.conf", file("/etc/a.conf")),
            ("file:/etc/a.conf", file("/etc/a.conf")),
            ("a.conf", file("a.conf")),
            ("/x/a:b.conf", file("/x/a:b.conf")),
            ("classpath:///a.conf", Ok(Origin::ClassPath("a.conf".into()))),
            ("ftp://h/a", Err(())),
            ("http://", Err(())),
        ] {
            assert_eq!(Origin::parse(uri).map_err(drop), expected, "{uri}");
        }
        let url = Origin::parse("http://me:pw@h:8080/a?b").unwrap();
        assert_eq!(url.to_string(), "http://h:8080/a?b", "no password is shown");
    }

    #[test]
    fn a_kept_flow_reads_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let text = |bytes: &[u8]| Text { shown: "f".to_owned(), bytes: bytes.to_vec() };
        let texts =
            [text(b"a.b = \\ x\\ty \\\\d+ \xc3\xa4\n"), text(b"a\\ c : ${f['k']}\\\n  more # not\n!k=\n")];
        keep(dir.path(), "a1", &texts).unwrap();
        let file = backup_file(dir.path(), "a1");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let pairs = |bytes: &[u8]| -> Vec<(String, String)> {
            properties::parse("f", bytes).unwrap().into_iter().map(|e| (e.key, e.value)).collect()
        };
        let expected: Vec<_> = texts.iter().flat_map(|t| pairs(&t.bytes)).collect();
        assert_eq!(pairs(&std::fs::read(file).unwrap()), expected);
    }
}
