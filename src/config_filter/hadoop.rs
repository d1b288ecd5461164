//! `hadoop` config filter: credentials that `hadoop credential create` has stored.
//!
//! Flume: `org.apache.flume.configfilter.HadoopCredentialStoreConfigFilter`. The password of a store is, as in
//! Hadoop, that of `HADOOP_CREDSTORE_PASSWORD`, else the content of the password file, else `none`. A store on a
//! cluster is read as this process's user, with the ticket of `kinit` if the cluster wants one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{ConfigFilter, FilterEntry, World};
use crate::client::hdfs::{self, Access, HadoopConf};
use crate::codec::jceks;
use crate::codec::keystore::STORE_BYTES_MAX;
use crate::config::{CommaList, ParseContext, Property, PropertySpec};
use crate::io::{Io, LocalBoxFuture, OpenOptions};

const PROVIDER_PATH: Property<CommaList> = Property::required(
    "credential.provider.path",
    "Stores to look in, separated by commas: `localjceks://file/path/to/store.jceks`, `jceks://file/path`, and on a cluster \
     `jceks://hdfs@namenode:8020/path` or `jceks://hdfs/path`, which is on `fs.defaultFS` of `HADOOP_CONF_DIR`.",
)
.example("localjceks://file/etc/flume/flow.jceks");
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

/// Time for reading a store on a cluster.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(30);

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Store {
    /// On this machine.
    File(PathBuf),
    /// On a cluster: its address there.
    Cluster(String),
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Cluster(address) => f.write_str(address),
        }
    }
}

struct Hadoop {
    stores: Vec<Store>,
    password_file: Option<PathBuf>,
}

fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn ConfigFilter>> {
    let (paths, password_file) = (cx.get(&PROVIDER_PATH), cx.get_opt(&PASSWORD_FILE));
    let mut stores = Vec::new();
    for uri in paths?.0 {
        match store(&uri) {
            Ok(store) => stores.push(store),
            Err(problem) => {
                let key = cx.full_key("credential.provider.path");
                let hint = format!("for example: {key} = localjceks://file/etc/flume/flow.jceks");
                cx.error("credential.provider.path", problem, Some(hint));
                return None;
            }
        }
    }
    Some(Arc::new(Hadoop { stores, password_file: password_file? }))
}

/// The store behind a provider's URI. Hadoop: `ProviderUtils.unnestUri`.
fn store(uri: &str) -> Result<Store, String> {
    let (rest, may_be_remote) = match (uri.strip_prefix("localjceks://"), uri.strip_prefix("jceks://")) {
        (Some(rest), _) => (rest, false),
        (_, Some(rest)) => (rest, true),
        _ => return Err(format!("{uri:?} is not a Java key store")),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (scheme, server) = authority.split_once('@').unwrap_or((authority, ""));
    match scheme {
        _ if path.len() < 2 => Err(format!("{uri:?} names no file")),
        "file" => Ok(Store::File(PathBuf::from(path))),
        "hdfs" | "viewfs" if may_be_remote => Ok(Store::Cluster(format!("{scheme}://{server}{path}"))),
        _ => Err(format!("{uri:?} is neither on this machine nor on HDFS")),
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
            let bytes = content(store, world).await?;
            let keys = jceks::read(&bytes, &password).map_err(|e| format!("{store}: {e}"))?;
            if let Some(key) = keys.iter().find(|k| k.alias.to_lowercase() == alias) {
                let bytes =
                    key.open(&password).ok_or_else(|| format!("{store}: {alias} cannot be opened"))?;
                let text = String::from_utf8(bytes);
                return text.map(Some).map_err(|_| format!("{store}: {alias} is not text"));
            }
        }
        Ok(None)
    }
}

async fn content(store: &Store, world: &World<'_>) -> Result<Vec<u8>, String> {
    match store {
        Store::File(path) => read(&world.io, path).await.map_err(|e| format!("{store}: {e}")),
        Store::Cluster(address) => {
            let conf = HadoopConf::of_machine(&world.io).await?;
            let access = Access { call_timeout: Some(CLUSTER_PATIENCE), ..Access::default() };
            let bytes = hdfs::read(address, &conf, &access, &world.io, STORE_BYTES_MAX).await;
            bytes.map(Vec::from).map_err(|e| e.to_string())
        }
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
        let file = |path: &str| Some(Store::File(PathBuf::from(path)));
        let cluster = |address: &str| Some(Store::Cluster(address.to_owned()));
        for (uri, expected) in [
            ("localjceks://file/a/b.jceks", file("/a/b.jceks")),
            ("jceks://file/a/b.jceks", file("/a/b.jceks")),
            ("jceks://hdfs@nn:8020/a/b.jceks", cluster("hdfs://nn:8020/a/b.jceks")),
            ("jceks://hdfs/a/b.jceks", cluster("hdfs:///a/b.jceks")),
            ("jceks://viewfs@mounts/a", cluster("viewfs://mounts/a")),
            ("localjceks://hdfs@nn/a", None),
            ("jceks://s3a@bucket/a", None),
            ("jceks://hdfs@nn", None),
            ("jceks://file/", None),
            ("localjceks://filex", None),
            ("user:///", None),
            ("/a/b.jceks", None),
        ] {
            assert_eq!(store(uri).ok(), expected, "{uri}");
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
