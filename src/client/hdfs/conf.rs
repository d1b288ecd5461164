//! The Hadoop configuration of this machine: `core-site.xml` and `hdfs-site.xml`.

use std::collections::BTreeMap;
use std::path::Path;

use crate::io::{Io, OpenOptions};

/// Largest configuration file read.
const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Settings of a Hadoop configuration directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HadoopConf {
    settings: BTreeMap<String, String>,
    directory: Option<String>,
}

impl HadoopConf {
    /// Reads the directory named by `HADOOP_CONF_DIR`, else `etc/hadoop` below `HADOOP_HOME`; empty without
    /// either.
    ///
    /// # Errors
    /// A file that is there but cannot be read or is no configuration.
    pub async fn of_machine(io: &Io) -> Result<Self, String> {
        let home = || std::env::var("HADOOP_HOME").ok().map(|home| format!("{home}/etc/hadoop"));
        let directory = std::env::var("HADOOP_CONF_DIR").ok().or_else(home).filter(|d| !d.is_empty());
        let Some(directory) = directory else { return Ok(Self::default()) };
        let mut settings = BTreeMap::new();
        for name in ["core-site.xml", "hdfs-site.xml"] {
            let path = Path::new(&directory).join(name);
            let shown = path.display();
            let file = match io.open(&path, OpenOptions::READ).await {
                Ok(file) => file,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(format!("{shown}: {error}")),
            };
            let mut text = Vec::new();
            loop {
                let (read, piece) = file.read_at(Vec::with_capacity(64 * 1024), text.len() as u64).await;
                if read.map_err(|e| format!("{shown}: {e}"))? == 0 {
                    break;
                }
                text.extend_from_slice(&piece);
                if text.len() > FILE_BYTES_MAX {
                    return Err(format!("{shown}: larger than {FILE_BYTES_MAX} bytes"));
                }
            }
            settings.extend(parse(&String::from_utf8_lossy(&text)).map_err(|e| format!("{shown}: {e}"))?);
        }
        Ok(Self { settings, directory: Some(directory) })
    }

    /// Settings without files.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let settings = pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        Self { settings, directory: None }
    }

    /// A setting.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(String::as_str)
    }
    /// All settings.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.settings.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
    /// Where they were read.
    pub fn directory(&self) -> Option<&str> {
        self.directory.as_deref()
    }
    /// A size as Hadoop writes it: `134217728`, `128m`.
    pub fn size(&self, key: &str) -> Option<u64> {
        let text = self.get(key)?.trim().to_ascii_lowercase();
        let (digits, shift) = match text.chars().last()? {
            'k' => (&text[..text.len() - 1], 10),
            'm' => (&text[..text.len() - 1], 20),
            'g' => (&text[..text.len() - 1], 30),
            't' => (&text[..text.len() - 1], 40),
            _ => (text.as_str(), 0),
        };
        digits.trim().parse::<u64>().ok()?.checked_mul(1 << shift)
    }
}

/// The `property` elements of a configuration file.
fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(text, options).map_err(|e| e.to_string())?;
    let properties = document.descendants().filter(|node| node.has_tag_name("property"));
    let text_of = |node: roxmltree::Node<'_, '_>, tag: &str| {
        let child = node.children().find(|c| c.has_tag_name(tag))?;
        Some(child.text().unwrap_or_default().trim().to_owned())
    };
    Ok(properties.filter_map(|node| Some((text_of(node, "name")?, text_of(node, "value")?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_of_a_file() {
        let text = "<?xml version=\"1.0\"?><configuration><!-- x --><property>\n<name> a </name><value>1</value>\
            <final>true</final></property><property><name>b</name><value/></property></configuration>";
        let expected = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())];
        assert_eq!(parse(text).unwrap(), expected);
        assert!(parse("<configuration>").is_err());
    }

    #[test]
    fn sizes() {
        let conf =
            HadoopConf::from_pairs([("a", "134217728"), ("b", "128m"), ("c", "1 g"), ("d", "x"), ("e", "")]);
        let sizes = ["a", "b", "c", "d", "e", "f"].map(|key| conf.size(key));
        assert_eq!(sizes, [Some(134_217_728), Some(134_217_728), Some(1 << 30), None, None, None]);
    }
}
