//! Keys of an encrypted file channel: from a Java key store, as Flume has them, or simply from a file.
//!
//! Flume: `org.apache.flume.channel.file.encryption`. Whatever the cipher provider is called, frames are
//! encrypted with AES-256-GCM under keys derived from these, see [`crate::wal::cipher`].

use std::path::{Path, PathBuf};

use crate::codec::jceks;
use crate::codec::keystore::{KeyStoreError, STORE_BYTES_MAX};
use crate::component::OpenError;
use crate::config::{CommaList, ParseContext, Property, PropertySpec as _, PropertyValue, Words};
use crate::io::{Io, OpenOptions};
use crate::wal::cipher::{KEY_SIZE_MIN, Key, Keys};

pub(super) const ACTIVE_KEY: Property<String> = Property::absent(
    "encryption.activeKey",
    "Name of the key in the key store that encrypts new events. The other `keys` only read older ones.",
);
pub(super) const CIPHER_PROVIDER: Property<String> = Property::absent(
    "encryption.cipherProvider",
    "Flume's `AESCTRNOPADDING`. Whatever stands here, AES-256-GCM is used: it also notices changes. `millrace channel \
     import` reads what Flume encrypted.",
);
pub(super) const KEY_PROVIDER: Property<String> = Property::absent(
    "encryption.keyProvider",
    "Where keys come from: `JCEKSFILE`, a Java key store. Without it see `encryption.keyFile`.",
);
pub(super) const KEY_STORE: Property<PathBuf> = Property::absent(
    "encryption.keyProvider.keyStoreFile",
    "The key store, made with `keytool -genseckey -storetype jceks`.",
);
pub(super) const KEY_STORE_PASSWORD: Property<PathBuf> = Property::absent(
    "encryption.keyProvider.keyStorePasswordFile",
    "File with the password of the key store.",
);
pub(super) const KEYS: Property<Words> = Property::absent(
    "encryption.keyProvider.keys",
    "Names of all keys that were ever active, separated by blanks.",
);
pub(super) const KEY_PASSWORDS: Property<String> = Property::family(
    "encryption.keyProvider.keys.",
    "`<key>.passwordFile`: file with the password of that key; without it that of the key store counts.",
);
pub(super) const KEY_FILE: Property<CommaList> = Property::absent(
    "encryption.keyFile",
    "File with a key: 32 random bytes, or 64 hexadecimal digits (openssl rand -hex 32). Of several, separated by \
     commas, the first encrypts and the others read older events. Instead of `encryption.keyProvider`.",
);

/// Largest key or password file: what a key needs, many times over.
const SECRET_BYTES_MAX: u64 = 4096;

/// Where the keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Events are not encrypted.
    None,
    /// Files, the active key first.
    Files(Vec<PathBuf>),
    /// A Java key store.
    Jceks {
        /// The store.
        store: PathBuf,
        /// File with its password.
        password: PathBuf,
        /// Name and password file of each key, the active one first.
        keys: Vec<(String, PathBuf)>,
    },
}

/// Reads the properties. `None` after a complaint.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Source> {
    let active = cx.get_opt(&ACTIVE_KEY)?;
    let cipher = cx.get_opt(&CIPHER_PROVIDER)?;
    let provider = cx.get_opt(&KEY_PROVIDER)?;
    let store = cx.get_opt(&KEY_STORE)?;
    let password = cx.get_opt(&KEY_STORE_PASSWORD)?;
    let names = cx.get_opt(&KEYS)?.map(|words| words.0).unwrap_or_default();
    let passwords = cx.family(&KEY_PASSWORDS);
    let files = cx.get_opt(&KEY_FILE)?;
    if let Some(files) = files {
        if provider.is_some() {
            let hint = format!("remove one of the two: {} or {}", KEY_FILE.name(), KEY_PROVIDER.name());
            cx.error(KEY_FILE.name(), "stands beside encryption.keyProvider", Some(hint));
            return None;
        }
        let read = |text: &String| PathBuf::parse(text).map_err(|problem| (text.clone(), problem));
        return match files.0.iter().map(read).collect::<Result<Vec<_>, _>>() {
            Ok(files) if !files.is_empty() => Some(Source::Files(files)),
            Ok(_) => {
                cx.error(KEY_FILE.name(), "names no file", None);
                None
            }
            Err((text, problem)) => {
                cx.error(KEY_FILE.name(), format!("{text}: {problem}"), None);
                None
            }
        };
    }
    if active.is_none() && cipher.is_none() && provider.is_none() {
        if store.is_some() || !names.is_empty() {
            let hint = Some(format!("add: {} = JCEKSFILE", cx.full_key(KEY_PROVIDER.name())));
            cx.error(KEY_PROVIDER.name(), "is not set, so that events would not be encrypted", hint);
            return None;
        }
        return Some(Source::None);
    }
    let lacking = |cx: &mut ParseContext<'_>, name: &str, example: &str| {
        let hint = Some(format!("add: {} = {example}", cx.full_key(name)));
        cx.error(name, "is required for encryption and not set", hint);
    };
    let complete = [
        (active.is_some(), ACTIVE_KEY.name(), "key-0"),
        (provider.is_some(), KEY_PROVIDER.name(), "JCEKSFILE"),
        (store.is_some(), KEY_STORE.name(), "/etc/flume/keys.jceks"),
        (password.is_some(), KEY_STORE_PASSWORD.name(), "/etc/flume/keys.password"),
        (!names.is_empty(), KEYS.name(), "key-0"),
    ];
    for (_, name, example) in complete.iter().filter(|(there, ..)| !there) {
        lacking(cx, name, example);
    }
    let provider = provider?;
    if !provider.eq_ignore_ascii_case("JCEKSFILE") {
        let hint = format!("use JCEKSFILE, or {} instead", cx.full_key(KEY_FILE.name()));
        cx.error(KEY_PROVIDER.name(), format!("{provider:?} is a Java class that cannot be run"), Some(hint));
        return None;
    }
    let (active, store, password) = (active?, store?, password?);
    if names.is_empty() {
        return None;
    }
    if !names.contains(&active) {
        let hint = format!("set {} = {} {active}", cx.full_key(KEYS.name()), names.join(" "));
        cx.error(ACTIVE_KEY.name(), "is not one of encryption.keyProvider.keys", Some(hint));
        return None;
    }
    let mut keys: Vec<(String, PathBuf)> = names
        .into_iter()
        .map(|name| {
            let own = passwords.iter().find(|(key, _)| key.strip_suffix(".passwordFile") == Some(&name));
            let file = own.map_or_else(|| password.clone(), |(_, file)| PathBuf::from(file));
            (name, file)
        })
        .collect();
    keys.sort_by_key(|(name, _)| *name != active);
    Some(Source::Jceks { store, password, keys })
}

/// Reads the keys.
///
/// # Errors
/// A file cannot be read, a password does not fit, a key is not there.
pub async fn load(io: &Io, source: &Source) -> Result<Keys, OpenError> {
    match source {
        Source::None => Ok(Keys::default()),
        Source::Files(files) => {
            let mut keys = Vec::new();
            for file in files {
                let bytes = read(io, KEY_FILE.name(), file, SECRET_BYTES_MAX).await?;
                keys.push(key_of_file(file, &bytes)?);
            }
            Ok(Keys(keys))
        }
        Source::Jceks { store, password, keys } => {
            let bytes = read(io, KEY_STORE.name(), store, STORE_BYTES_MAX).await?;
            let text = read_password(io, KEY_STORE_PASSWORD.name(), password).await?;
            let wrap = |error: KeyStoreError| {
                OpenError::new(KEY_STORE.name(), store.display().to_string(), error.to_string()).hint(
                    "check the store and its password with: keytool -list -storetype jceks -keystore FILE",
                )
            };
            let found = jceks::read(&bytes, &text).map_err(wrap)?;
            let mut read = Vec::new();
            for (name, file) in keys {
                let sealed = found.iter().find(|key| key.alias.eq_ignore_ascii_case(name));
                let sealed = sealed.ok_or_else(|| {
                    let there: Vec<&str> = found.iter().map(|key| key.alias.as_str()).collect();
                    let message = format!("the key store holds no secret key of this name; it holds: {}", there.join(", "));
                    OpenError::new(KEYS.name(), name.as_str(), message)
                        .hint(format!("keytool -genseckey -alias {name} -keyalg AES -keysize 256 -storetype jceks -keystore {}", store.display()))
                })?;
                let text = read_password(io, "encryption.keyProvider.keys.<key>.passwordFile", file).await?;
                let secret = sealed.open(&text).ok_or_else(|| {
                    let message = format!("key {name}: the password does not fit");
                    OpenError::new(KEY_PASSWORDS.name(), file.display().to_string(), message)
                        .hint(format!("put the password of key {name} into the file"))
                })?;
                let key = Key::new(name.as_str(), secret).ok_or_else(|| too_short(KEYS.name(), name))?;
                read.push(key);
            }
            Ok(Keys(read))
        }
    }
}

fn too_short(property: &'static str, value: &str) -> OpenError {
    let message = format!("the key has fewer than {KEY_SIZE_MIN} bytes");
    OpenError::new(property, value, message).hint("make one with: openssl rand -hex 32")
}

/// A key from a file's bytes; its name is the file's.
///
/// # Errors
/// It is too short.
pub fn key_of_file(file: &Path, bytes: &[u8]) -> Result<Key, OpenError> {
    let text = bytes.trim_ascii();
    let digits = text.len().is_multiple_of(2) && text.iter().all(u8::is_ascii_hexdigit);
    let secret = if digits {
        let digit = |b: u8| (b as char).to_digit(16).unwrap_or(0) as u8;
        text.chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    } else {
        bytes.to_vec()
    };
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
    Key::new(name, secret).ok_or_else(|| too_short(KEY_FILE.name(), &file.display().to_string()))
}

async fn read_password(io: &Io, property: &'static str, file: &Path) -> Result<String, OpenError> {
    let bytes = read(io, property, file, SECRET_BYTES_MAX).await?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// The whole of a small file.
async fn read(io: &Io, property: &'static str, file: &Path, size_max: u64) -> Result<Vec<u8>, OpenError> {
    let fail = |problem: String| {
        OpenError::new(property, file.display().to_string(), problem)
            .hint("name a file that the user of the agent may read")
    };
    let wrap = |error: std::io::Error| fail(format!("cannot be read: {error}"));
    let open = io.open(file, OpenOptions::READ).await.map_err(wrap)?;
    let size = open.metadata().await.map_err(wrap)?.size_bytes;
    if size > size_max {
        return Err(fail(format!("has {size} bytes, more than the {size_max} that are read")));
    }
    let mut all = Vec::new();
    while (all.len() as u64) < size {
        let (result, piece) = open.read_at(Vec::with_capacity(size as usize), all.len() as u64).await;
        if result.map_err(wrap)? == 0 {
            break;
        }
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::io::{EngineKind, run_local};
    use crate::testing;

    const JCEKS: &str = "encryption.activeKey = key-1\nencryption.keyProvider = JCEKSFILE\n\
        encryption.cipherProvider = AESCTRNOPADDING\nencryption.keyProvider.keyStoreFile = /s\n\
        encryption.keyProvider.keyStorePasswordFile = /p\nencryption.keyProvider.keys = key-0 key-1\n\
        encryption.keyProvider.keys.key-0.passwordFile = /p0\n";

    #[test]
    fn properties() {
        let parsed = |lines: &str| testing::parse(Kind::Channel, lines, parse);
        assert_eq!(parsed(""), (Some(Source::None), vec![]));
        let expected = Source::Jceks {
            store: "/s".into(),
            password: "/p".into(),
            keys: vec![("key-1".into(), "/p".into()), ("key-0".into(), "/p0".into())],
        };
        assert_eq!(parsed(JCEKS), (Some(expected), vec![]));
        let files = Source::Files(vec!["/a".into(), "/b".into()]);
        assert_eq!(parsed("encryption.keyFile = /a, /b"), (Some(files), vec![]));
        for (lines, complaint) in [
            ("encryption.activeKey = key-0".to_owned(), "keyProvider = JCEKSFILE"),
            (JCEKS.replace("JCEKSFILE", "com.acme.Keys"), "Java class"),
            (JCEKS.replace("activeKey = key-1", "activeKey = key-9"), "is not one of"),
            (JCEKS.replace("keys = key-0 key-1", "keys ="), "encryption.keyProvider.keys"),
            (JCEKS.replace("encryption.keyProvider = JCEKSFILE", ""), "is required for encryption"),
            ("encryption.keyProvider.keyStoreFile = /s".to_owned(), "would not be encrypted"),
            (format!("{JCEKS}encryption.keyFile = /a"), "stands beside"),
        ] {
            let (source, complaints) = parsed(&lines);
            assert!(source.is_none() && complaints.join("\n").contains(complaint), "{lines}: {complaints:?}");
        }
    }

    #[test]
    fn keys_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let write = |name: &str, text: &[u8]| std::fs::write(path(name), text).unwrap();
        write("store", include_bytes!("../../../tests/fixtures/keystore/flume.jceks"));
        write("password", b"storePassword\n");
        write("p0", b"keyPasswordkey-0");
        write("p1", b"keyPasswordkey-1\n");
        write("hex", "0123456789abcdef".repeat(4).as_bytes());
        write("short", b"0123456789");
        let load = |source: Source| {
            run_local(EngineKind::Portable, |io| async move { load(&io, &source).await }).unwrap()
        };
        let jceks = |keys: &[(&str, &str)]| Source::Jceks {
            store: path("store"),
            password: path("password"),
            keys: keys.iter().map(|(key, file)| ((*key).to_owned(), path(file))).collect(),
        };
        let names = |keys: Keys| keys.0.into_iter().map(|k| k.name).collect::<Vec<_>>();
        assert_eq!(names(load(jceks(&[("key-1", "p1"), ("key-0", "p0")])).unwrap()), ["key-1", "key-0"]);
        assert_eq!(names(load(Source::Files(vec![path("hex")])).unwrap()), ["hex"]);
        for (source, complaint) in [
            (jceks(&[("key-1", "p0")]), "password"),
            (jceks(&[("key-9", "p0")]), "it holds: key-"),
            (jceks(&[("key-0", "nowhere")]), "cannot be read"),
            (Source::Files(vec![path("short")]), "fewer than 16 bytes"),
        ] {
            let error = load(source).unwrap_err();
            assert!(error.message.contains(complaint), "{error:?}");
        }
    }
}
