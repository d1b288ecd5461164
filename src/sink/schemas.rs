//! Schemas of events whose bodies are Avro data, for the sinks that write files.
//!
//! Flume: `org.apache.flume.sink.hdfs.AvroEventSerializer.initialize`. An event's schema is that of its header
//! `flume.avro.schema.url`, else `flume.avro.schema.literal`, else of the option `schemaURL`. Flume asks once per
//! file, for its first event; here every event is asked, and every schema gets a file of its own. An event that
//! names no schema cannot be delivered, as in Flume where it is a file's first.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use super::DeliveryError;
use crate::client::fetch::{self, Url};
use crate::client::hdfs::{self, Access, HadoopConf};
use crate::codec::avro::schema::Schema;
use crate::config::tls::ClientTls;
use crate::event::EventBatch;
use crate::io::Io;
use crate::serializer::avro_body::{self, LITERAL_HEADER, URL_HEADER};

/// Longest schema. Large ones have a few hundred KiB.
const SCHEMA_BYTES_MAX: usize = 1 << 20;
/// Schemas kept, and addresses: with both full of the longest, 128 MiB; usual are two of 2 KiB.
const SCHEMAS_MAX: usize = 64;
/// Time for reading one from a cluster, whatever the calls of the sink may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Age after which a schema is read again from its address.
const REFRESH: Duration = Duration::from_secs(60);

/// The schema of some events.
#[derive(Debug)]
pub struct EventSchema {
    /// Tells it from every other that is in use.
    pub id: u64,
    /// Its text, as it was given.
    pub text: Rc<str>,
}

/// Where an event's schema is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named<'a> {
    Url(&'a str),
    Literal(&'a str),
}

struct Page {
    schema: Rc<EventSchema>,
    last_modified: Option<String>,
    /// When to read it again.
    due: Duration,
}

/// Finds the schemas of events.
pub struct Schemas {
    io: Io,
    fixed: Option<String>,
    access: Access,
    tls: ClientTls,
    /// Read when the first address on a cluster is met.
    conf: Option<HadoopConf>,
    known: HashMap<Rc<str>, (u64, Rc<EventSchema>)>,
    pages: HashMap<String, Page>,
    uses: u64,
    ids: u64,
}

/// Events up to `to` of a batch that have one schema.
pub struct Run {
    /// Behind the last of them.
    pub to: usize,
    /// Their schema.
    pub schema: Rc<EventSchema>,
}

impl Schemas {
    /// Knows nothing yet. `access` and `tls` are for schemas on clusters and on `https` servers.
    pub fn new(io: &Io, fixed: Option<String>, access: Access, tls: ClientTls) -> Self {
        let (known, pages) = Default::default();
        Self { io: io.clone(), fixed, access, tls, conf: None, known, pages, uses: 0, ids: 0 }
    }

    /// The batch's events by schema, in order.
    ///
    /// # Errors
    /// An event names none, or one that cannot be had; the message says whose and how to change it.
    pub async fn runs(&mut self, batch: &EventBatch) -> Result<Vec<Run>, DeliveryError> {
        let fixed = self.fixed.clone();
        let named = |index: usize| {
            let url = batch.header(index, URL_HEADER).map(Named::Url);
            let literal = || batch.header(index, LITERAL_HEADER).map(Named::Literal);
            url.or_else(literal).or(fixed.as_deref().map(Named::Url))
        };
        let (mut runs, mut from) = (Vec::new(), 0);
        while from < batch.len() {
            let first = named(from);
            let to = match batch.each() {
                None => batch.len(),
                Some(_) => (from + 1..batch.len()).find(|i| named(*i) != first).unwrap_or(batch.len()),
            };
            let schema = match first {
                Some(Named::Url(url)) => self.at(url).await,
                Some(Named::Literal(text)) => self
                    .known(text)
                    .map_err(|e| format!("the header {LITERAL_HEADER} of an event is no Avro schema: {e}")),
                None => Err(format!(
                    "cannot write an event without a schema: it has neither the header {URL_HEADER} nor {LITERAL_HEADER}; \
                     set the serializer's schemaURL for such events"
                )),
            };
            runs.push(Run { to, schema: schema.map_err(DeliveryError::Destination)? });
            from = to;
        }
        Ok(runs)
    }

    /// The schema with this text.
    fn known(&mut self, text: &str) -> Result<Rc<EventSchema>, String> {
        self.uses += 1;
        if let Some((used, schema)) = self.known.get_mut(text) {
            *used = self.uses;
            return Ok(schema.clone());
        }
        if text.len() > SCHEMA_BYTES_MAX {
            return Err(format!("{} bytes, more than {SCHEMA_BYTES_MAX}", text.len()));
        }
        Schema::parse(text).map_err(|e| e.to_string())?;
        if self.known.len() >= SCHEMAS_MAX
            && let Some(oldest) =
                self.known.iter().min_by_key(|(_, (used, _))| *used).map(|(text, _)| text.clone())
        {
            self.known.remove(&oldest);
        }
        self.ids += 1;
        let text: Rc<str> = text.into();
        let schema = Rc::new(EventSchema { id: self.ids, text: text.clone() });
        self.known.insert(text, (self.uses, schema.clone()));
        Ok(schema)
    }

    /// The schema at this address.
    async fn at(&mut self, url: &str) -> Result<Rc<EventSchema>, String> {
        let now = self.io.now();
        let page = self.pages.get(url);
        if let Some(page) = page.filter(|page| now < page.due) {
            return Ok(page.schema.clone());
        }
        let since = page.and_then(|page| page.last_modified.clone());
        match self.read(url, since.as_deref()).await {
            Ok(Some((schema, last_modified))) => {
                if self.pages.len() >= SCHEMAS_MAX && !self.pages.contains_key(url) {
                    let oldest =
                        self.pages.iter().min_by_key(|(_, page)| page.due).map(|(url, _)| url.clone());
                    oldest.and_then(|url| self.pages.remove(&url));
                }
                let due = self.io.now() + REFRESH;
                let page = Page { schema: schema.clone(), last_modified, due };
                self.pages.insert(url.to_owned(), page);
                Ok(schema)
            }
            unchanged => match (self.pages.get_mut(url), unchanged) {
                (Some(page), unchanged) => {
                    if let Err(problem) = unchanged {
                        tracing::warn!(schema = url, %problem, "the schema cannot be read again; events go on under the one read before");
                    }
                    page.due = self.io.now() + REFRESH;
                    Ok(page.schema.clone())
                }
                (None, Err(problem)) => Err(format!("the schema {url} cannot be read: {problem}")),
                (None, _) => Err(format!("the schema {url} cannot be read: the server sends nothing")),
            },
        }
    }

    /// `None` if it has not changed since.
    async fn read(
        &mut self,
        url: &str,
        since: Option<&str>,
    ) -> Result<Option<(Rc<EventSchema>, Option<String>)>, String> {
        if !avro_body::is_address(url) {
            return Err("not an address that begins with hdfs://, file://, http:// or https://".to_owned());
        }
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        let (bytes, last_modified) = if scheme.to_ascii_lowercase().starts_with("http") {
            let page = fetch::get(&self.io, &Url::parse(url)?, None, &self.tls, since).await?;
            let Some(page) = page else { return Ok(None) };
            (page.bytes.into(), page.last_modified)
        } else {
            if self.conf.is_none() {
                self.conf = Some(HadoopConf::of_machine(&self.io).await?);
            }
            let conf = self.conf.get_or_insert_default();
            let read = tokio::select! {
                read = hdfs::read(url, conf, &self.access, &self.io, SCHEMA_BYTES_MAX as u64) => read,
                () = self.io.sleep(PATIENCE) => return Err(format!("no answer within {} s", PATIENCE.as_secs())),
            };
            (read.map_err(|e| e.to_string())?, None)
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| "it is not text".to_owned())?;
        let schema = self.known(text).map_err(|e| format!("it is no Avro schema: {e}"))?;
        Ok(Some((schema, last_modified)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::BatchBuilder;
    use crate::io::{EngineKind, run_local};

    const LONG: &str = "\"long\"";
    const STRING: &str = "\"string\"";

    fn batch(events: &[&[(&str, &str)]]) -> EventBatch {
        let mut builder = BatchBuilder::default();
        for headers in events {
            builder.push(b"\x02");
            headers.iter().for_each(|(key, value)| builder.header(key, value));
        }
        builder.finish()
    }

    fn shown(runs: &[Run]) -> Vec<(usize, &str)> {
        runs.iter().map(|run| (run.to, &*run.schema.text)).collect()
    }

    #[test]
    fn an_event_is_asked_for_its_schema_in_flumes_order() {
        let dir = tempfile::tempdir().unwrap();
        let address = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            format!("file://{}", path.display())
        };
        let (long, int) = (address("long", LONG), address("int", "\"int\""));
        run_local(EngineKind::Portable, |io| async move {
            let mut schemas = Schemas::new(&io, Some(int.clone()), Access::default(), ClientTls::default());
            let events = batch(&[
                &[(URL_HEADER, &long), (LITERAL_HEADER, STRING)],
                &[(LITERAL_HEADER, LONG)],
                &[(LITERAL_HEADER, STRING)],
                &[],
                &[("other", "x")],
            ]);
            let runs = schemas.runs(&events).await.unwrap();
            assert_eq!(shown(&runs), [(1, LONG), (2, LONG), (3, STRING), (5, "\"int\"")]);
            assert_eq!(
                runs[0].schema.id, runs[1].schema.id,
                "one text is one schema, wherever it comes from"
            );
            assert_ne!(runs[1].schema.id, runs[2].schema.id);
            let mut common = batch(&[&[], &[]]);
            common.common_mut().insert(LITERAL_HEADER, STRING);
            assert_eq!(shown(&schemas.runs(&common).await.unwrap()), [(2, STRING)]);
        })
        .unwrap();
    }

    #[test]
    fn what_is_wrong_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        std::fs::write(&file, "<html>").unwrap();
        let (file, missing) = (format!("file://{}", file.display()), "file:///nosuch/schema.avsc");
        run_local(EngineKind::Portable, |io| async move {
            let mut schemas = Schemas::new(&io, None, Access::default(), ClientTls::default());
            let long = format!("\"{}\"", "x".repeat(SCHEMA_BYTES_MAX));
            let table: [(&[(&str, &str)], &str); 6] = [
                (&[], "set the serializer's schemaURL"),
                (
                    &[(LITERAL_HEADER, "{")],
                    "the header flume.avro.schema.literal of an event is no Avro schema",
                ),
                (&[(LITERAL_HEADER, &long)], "more than 1048576"),
                (&[(URL_HEADER, &file)], "it is no Avro schema"),
                (&[(URL_HEADER, missing)], "the schema file:///nosuch/schema.avsc cannot be read"),
                (&[(URL_HEADER, "ftp://h/x")], "not an address that begins with"),
            ];
            for (headers, expected) in table {
                let problem = schemas.runs(&batch(&[headers])).await.err().unwrap().to_string();
                assert!(problem.contains(expected), "{problem}");
            }
        })
        .unwrap();
    }

    #[test]
    fn a_changed_schema_is_found_and_a_lost_one_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.avsc");
        std::fs::write(&path, LONG).unwrap();
        let url = format!("file://{}", path.display());
        run_local(EngineKind::Portable, |io| async move {
            let mut schemas = Schemas::new(&io, Some(url.clone()), Access::default(), ClientTls::default());
            let events = batch(&[&[]]);
            let text = async |schemas: &mut Schemas| {
                schemas.runs(&events).await.unwrap().remove(0).schema.text.clone()
            };
            assert_eq!(&*text(&mut schemas).await, LONG);
            std::fs::write(&path, STRING).unwrap();
            assert_eq!(&*text(&mut schemas).await, LONG, "not read again within a minute");
            let age = |schemas: &mut Schemas| schemas.pages.get_mut(&url).unwrap().due = Duration::ZERO;
            age(&mut schemas);
            assert_eq!(&*text(&mut schemas).await, STRING);
            std::fs::remove_file(&path).unwrap();
            age(&mut schemas);
            assert_eq!(&*text(&mut schemas).await, STRING);
            for index in 0..3 * SCHEMAS_MAX {
                let literal = format!("{{\"type\":\"fixed\",\"name\":\"f\",\"size\":{index}}}");
                schemas.runs(&batch(&[&[(LITERAL_HEADER, &literal)]])).await.unwrap();
            }
            assert_eq!(schemas.known.len(), SCHEMAS_MAX);
        })
        .unwrap();
    }
}
