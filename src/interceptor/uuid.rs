//! UUID interceptor: a random identifier on every event.
//!
//! Flume: `org.apache.flume.sink.solr.morphline.UUIDInterceptor`. Version 4 (RFC 9562 §5.4). Here every
//! event needs a header of its own; they are written into one buffer per batch.

use std::sync::Arc;

use super::{Interceptor, InterceptorConfig, InterceptorEntry, ready, rebuild_own_headers};
use crate::component::OpenError;
use crate::config::{ParseContext, Property, PropertySpec};
use crate::event::EventBatch;
use crate::io::{Io, LocalBoxFuture};

const HEADER_NAME: Property<String> = Property::optional("headerName", "id", "Header to set.");
const PRESERVE_EXISTING: Property<bool> =
    Property::optional("preserveExisting", "true", "Leave events alone that have the header.");
const PREFIX: Property<String> = Property::absent("prefix", "Text in front of each identifier.");

/// Row of the registry.
pub const ENTRY: InterceptorEntry = InterceptorEntry {
    name: "",
    class: "org.apache.flume.sink.solr.morphline.UUIDInterceptor$Builder",
    summary: "Sets a header to a random UUID, another one for each event.",
    properties: PROPERTIES,
    parse,
};

/// Every property the UUID interceptor reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&HEADER_NAME, &PRESERVE_EXISTING, &PREFIX];

/// Length of a UUID as text.
const UUID_CHARS: usize = 36;

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn InterceptorConfig>> {
    let (header, preserve, prefix) = (cx.get(&HEADER_NAME), cx.get(&PRESERVE_EXISTING), cx.get_opt(&PREFIX));
    Some(Arc::new(Config { header: header?, preserve: preserve?, prefix: prefix?.unwrap_or_default() }))
}

struct Config {
    header: String,
    preserve: bool,
    prefix: String,
}

impl InterceptorConfig for Config {
    fn open(self: Arc<Self>, io: Io) -> LocalBoxFuture<'static, Result<Box<dyn Interceptor>, OpenError>> {
        let text = String::with_capacity(self.prefix.len() + UUID_CHARS);
        ready(Uuid { config: self, io, text })
    }
    fn headers_set(&self) -> Vec<String> {
        vec![self.header.clone()]
    }
}

struct Uuid {
    config: Arc<Config>,
    io: Io,
    /// The current value; kept to allocate nothing per event.
    text: String,
}

impl Interceptor for Uuid {
    fn intercept(&mut self, batch: &mut EventBatch) {
        let Self { config, io, text } = self;
        if config.preserve && batch.common().get(&config.header).is_some() {
            return;
        }
        let has_own: Vec<bool> = match config.preserve && !batch.is_common(&config.header) {
            true => (0..batch.len()).map(|index| batch.header(index, &config.header).is_some()).collect(),
            false => Vec::new(),
        };
        let keeps_own = |index: usize| has_own.get(index).copied().unwrap_or(false);
        rebuild_own_headers(
            batch,
            |index, key| keeps_own(index) || key != config.header,
            |index, builder| {
                if !keeps_own(index) {
                    text.clear();
                    text.push_str(&config.prefix);
                    push_uuid(text, [io.random(), io.random()]);
                    builder.header(&config.header, text);
                }
            },
        );
    }
}

fn push_uuid(text: &mut String, random: [u64; 2]) {
    let bits = (u128::from(random[0]) << 64) | u128::from(random[1]);
    // Version 4, variant 10.
    let bits = (bits & !(0xf << 76) & !(0b11 << 62)) | (0x4 << 76) | (0b10 << 62);
    for digit in 0..32 {
        if matches!(digit, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        let nibble = (bits >> (124 - 4 * digit)) as u32 & 0xf;
        text.push(char::from_digit(nibble, 16).unwrap_or('0'));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{batch, through};
    use super::*;

    fn is_uuid(text: &str) -> bool {
        let groups: Vec<&str> = text.split('-').collect();
        groups.iter().map(|g| g.len()).eq([8, 4, 4, 4, 12])
            && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
            && groups[2].starts_with('4')
            && groups[3].starts_with(['8', '9', 'a', 'b'])
    }

    #[test]
    fn each_event_has_its_own() {
        let out = through(&ENTRY, "prefix = p-", batch(&["a", "x=1|b", "id=mine|c"]));
        let ids: Vec<&str> = (0..3).map(|i| out.header(i, "id").unwrap()).collect();
        assert!(
            is_uuid(ids[0].strip_prefix("p-").unwrap()) && is_uuid(ids[1].strip_prefix("p-").unwrap()),
            "{ids:?}"
        );
        assert_ne!(ids[0], ids[1]);
        assert_eq!(ids[2], "mine");
        assert_eq!(out.header(1, "x"), Some("1"));
    }

    #[test]
    fn overwrites_or_preserves() {
        let out = through(&ENTRY, "headerName = k\npreserveExisting = false", batch(&["k=1|a", "b"]));
        assert!(is_uuid(out.header(0, "k").unwrap()) && is_uuid(out.header(1, "k").unwrap()));
        let mut input = batch(&["a", "b"]);
        input.common_mut().insert("id", "all");
        assert_eq!(through(&ENTRY, "", input.clone()).header(0, "id"), Some("all"));
        let out = through(&ENTRY, "preserveExisting = false", input);
        assert!(is_uuid(out.header(0, "id").unwrap()));
        assert_ne!(out.header(0, "id"), out.header(1, "id"));
    }
}
