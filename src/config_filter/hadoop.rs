//! `hadoop` config filter: credentials that `hadoop credential create` has stored.
//!
//! Flume: `org.apache.flume.configfilter.HadoopCredentialStoreConfigFilter`. The password of a store is, as in
//! Hadoop, that of `HADOOP_CREDSTORE_PASSWORD`, else the content of the password file, else `none`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{ConfigFilter, FilterEntry, World};
use crate::codec::jceks;
use crate::codec::keystore::STORE_BYTES_MAX;
use crate::config::{CommaList, ParseContext, Property, PropertySpec};
use crate::io::{Io, LocalBoxFuture, OpenOptions};

const PROVIDER_PATH: Property<CommaList> = Property::required(
    "credential.provider.path",
    "Stores to look in, separated by commas: `localjceks://file/path/to/store.jceks` or `jceks://file/path`. A store on HDFS \
     is not read from there: copy it to this machine.",
);
const PASSWORD_FILE: Property<PathBuf> = Property::absent(
    "credstore.java-keystore-provider.password-file",
    "File with the stores' password; a relative path is looked for in the configuration directory and in \
     `HADOOP_CONF_DIR`.",
);

/// Every property the filter reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&PROVIDER_PATH, &PASSWORD_FILE];

/// Row of the registry.
pub const ENTRY: FilterEntry = FilterEntry {
    name: "hadoop",
    class: "org.apache.flume.configfilter.HadoopCredentialStoreConfigFilter",
    summary: "`${f1['alias']}` is a credential of a Hadoop credential store (JCEKS).",
    properties: PROPERTIES,
    parse,
};

/// What Hadoop takes where no password is set.
const USUAL_PASSWORD: &str = "none";

struct Hadoop {
    stores: Vec<PathBuf>,
    password_file: Option<PathBuf>,
}

fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn ConfigFilter>> {
    let (paths, password_file) = (cx.get(&PROVIDER_PATH), cx.get_opt(&PASSWORD_FILE));
    let mut stores = Vec::new();
    for uri in paths?.0 {
        match local_store(&uri) {
            Ok(path) => stores.push(path),
            Err(problem) => {
                let key = cx.full_key("credential.provider.path");
                let hint = match on_hdfs(&uri) {
                    Some((path, name)) => format!(
                        "type: hadoop fs -get {path} /etc/flume/{name}  and write: {key} = localjceks://file/etc/flume/{name}"
                    ),
                    None => format!("for example: {key} = localjceks://file/etc/flume/flow.jceks"),
                };
                cx.error("credential.provider.path", problem, Some(hint));
                return None;
            }
        }
    }
    Some(Arc::new(Hadoop { stores, password_file: password_file? }))
}

/// Path as Hadoop's tool takes it, and name, of a store on HDFS.
fn on_hdfs(uri: &str) -> Option<(String, &str)> {
    let (server, path) = uri.strip_prefix("jceks://hdfs")?.split_once('/')?;
    let name = path.rsplit('/').next().filter(|name| !name.is_empty())?;
    let server = server.trim_start_matches('@');
    let start = if server.is_empty() { String::new() } else { format!("hdfs://{server}") };
    Some((format!("{start}/{path}"), name))
}

/// The file behind a provider's URI.
fn local_store(uri: &str) -> Result<PathBuf, String> {
    let rest = uri.strip_prefix("localjceks://").or_else(|| uri.strip_prefix("jceks://"));
    match rest {
        Some(rest) => match rest.strip_prefix("file") {
            Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
            _ if on_hdfs(uri).is_some() => {
                Err(format!("{uri:?} is a store on HDFS, which is not read from there"))
            }
            _ => Err(format!("{uri:?} is not a store on this machine")),
        },
        None => Err(format!("{uri:?} is not a Java key store")),
    }
}

impl Hadoop {
    async fn password(&self, world: &World<'_>) -> Result<String, String> {
        if let Some(password) = (world.env)("HADOOP_CREDSTORE_PASSWORD") {
            return Ok(password);
        }
        let Some(file) = &self.password_file else { return Ok(USUAL_PASSWORD.to_owned()) };
        let hadoop = (world.env)("HADOOP_CONF_DIR").map(PathBuf::from);
        let directories = [world.conf, hadoop.as_deref(), Some(Path::new(""))];
        let mut problem = String::new();
        for directory in directories.into_iter().flatten() {
            let path = directory.join(file);
            match read(&world.io, &path).await {
                Ok(bytes) => return Ok(String::from_utf8_lossy(&bytes).trim().to_owned()),
                Err(error) => problem = format!("{}: {error}", path.display()),
            }
        }
        Err(format!("the password file cannot be read: {problem}"))
    }

    async fn find(&self, alias: &str, world: &World<'_>) -> Result<Option<String>, String> {
        let password = self.password(world).await?;
        let alias = alias.to_lowercase();
        for store in &self.stores {
            let shown = store.display();
            let bytes = read(&world.io, store).await.map_err(|e| format!("{shown}: {e}"))?;
            let keys = jceks::read(&bytes, &password).map_err(|e| format!("{shown}: {e}"))?;
            if let Some(key) = keys.iter().find(|k| k.alias.to_lowercase() == alias) {
                let bytes =
                    key.open(&password).ok_or_else(|| format!("{shown}: {alias} cannot be opened"))?;
                let text = String::from_utf8(bytes);
                return text.map(Some).map_err(|_| format!("{shown}: {alias} is not text"));
            }
        }
        Ok(None)
    }
}

async fn read(io: &Io, path: &Path) -> std::io::Result<Vec<u8>> {
    let file = io.open(path, OpenOptions::READ).await?;
    let size = file.metadata().await?.size_bytes;
    if size > STORE_BYTES_MAX {
        return Err(std::io::Error::other(format!("{size} bytes, more than {STORE_BYTES_MAX}")));
    }
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < size {
        let room = Vec::with_capacity(size as usize - bytes.len());
        let (read, piece) = file.read_at(room, bytes.len() as u64).await;
        if read? == 0 {
            break;
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

impl ConfigFilter for Hadoop {
    fn look_up<'a>(
        &'a self,
        key: &'a str,
        world: &'a World<'a>,
    ) -> LocalBoxFuture<'a, Result<Option<String>, String>> {
        Box::pin(self.find(key, world))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{EngineKind, run_local};

    #[test]
    fn uris_of_stores() {
        for (uri, expected) in [
            ("localjceks://file/a/b.jceks", Some("/a/b.jceks")),
            ("jceks://file/a/b.jceks", Some("/a/b.jceks")),
            ("jceks://hdfs@nn:8020/a/b.jceks", None),
            ("localjceks://filex", None),
            ("user:///", None),
            ("/a/b.jceks", None),
        ] {
            assert_eq!(local_store(uri).ok(), expected.map(PathBuf::from), "{uri}");
        }
    }

    #[test]
    fn stores_on_hdfs_are_to_be_copied() {
        for (uri, expected) in [
            ("jceks://hdfs@nn:8020/a/b.jceks", "hadoop fs -get hdfs://nn:8020/a/b.jceks /etc/flume/b.jceks "),
            ("jceks://hdfs/a/b.jceks", "hadoop fs -get /a/b.jceks /etc/flume/b.jceks "),
        ] {
            let lines = format!("credential.provider.path = {uri}");
            let (filter, complaints) =
                crate::testing::parse(crate::config::Kind::ConfigFilter, &lines, parse);
            assert!(filter.is_none());
            assert!(complaints[0].contains(expected), "{complaints:?}");
        }
    }

    #[test]
    fn where_the_password_is_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pw"), " from file\n").unwrap();
        let cases: [(Option<&str>, Option<&str>, Result<&str, &str>); 4] = [
            (None, None, Ok("none")),
            (None, Some("pw"), Ok("from file")),
            (Some("from env"), Some("pw"), Ok("from env")),
            (None, Some("nosuch"), Err("nosuch")),
        ];
        for (variable, file, expected) in cases {
            let env = |name: &str| {
                (name == "HADOOP_CREDSTORE_PASSWORD").then(|| variable.map(str::to_owned)).flatten()
            };
            let filter = Hadoop { stores: Vec::new(), password_file: file.map(PathBuf::from) };
            let found = run_local(EngineKind::Portable, |io| async {
                filter.password(&World { io, env: &env, conf: Some(dir.path()) }).await
            })
            .unwrap();
            match expected {
                Ok(password) => assert_eq!(found.as_deref(), Ok(password)),
                Err(part) => assert!(found.unwrap_err().contains(part)),
            }
        }
    }
}
