//! `host` interceptor: this host's address or name as a header.
//!
//! Flume: `org.apache.flume.interceptor.HostInterceptor`. Looked up once, when the interceptor is opened;
//! O(1) per batch.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Interceptor, InterceptorConfig, InterceptorEntry};
use crate::component::OpenError;
use crate::config::{ParseContext, Property, PropertySpec};
use crate::event::EventBatch;
use crate::io::{Io, LocalBoxFuture, machine, off_core};

const HOST_HEADER: Property<String> = Property::optional("hostHeader", "host", "Header to set.");
const USE_IP: Property<bool> = Property::optional(
    "useIP",
    "true",
    "The address this host's name resolves to; `false`: the full name that address resolves back to.",
);
const PRESERVE_EXISTING: Property<bool> =
    Property::optional("preserveExisting", "false", "Leave events alone that have the header.");

/// Row of the registry.
pub const ENTRY: InterceptorEntry = InterceptorEntry {
    name: "host",
    class: "org.apache.flume.interceptor.HostInterceptor$Builder",
    summary: "Sets a header to this host's address or name.",
    properties: PROPERTIES,
    parse,
};

/// Every property the host interceptor reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&HOST_HEADER, &USE_IP, &PRESERVE_EXISTING];

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn InterceptorConfig>> {
    let (header, use_ip, preserve) = (cx.get(&HOST_HEADER), cx.get(&USE_IP), cx.get(&PRESERVE_EXISTING));
    Some(Arc::new(Config { header: header?, use_ip: use_ip?, preserve: preserve? }))
}

struct Config {
    header: String,
    use_ip: bool,
    preserve: bool,
}

impl InterceptorConfig for Config {
    fn open(self: Arc<Self>, io: Io) -> LocalBoxFuture<'static, Result<Box<dyn Interceptor>, OpenError>> {
        Box::pin(async move {
            let value = match (own_address(&io).await, self.use_ip) {
                (Some(address), true) => Some(address.to_string()),
                (Some(address), false) => {
                    let name = off_core(move || machine::canonical_name(address)).await;
                    // As in Java, an address nobody has a name for is its own name.
                    Some(name.unwrap_or_else(|| address.to_string()))
                }
                (None, true) => None,
                (None, false) => Some(machine::host_name()),
            };
            if value.is_none() {
                tracing::warn!(
                    header = %self.header,
                    "this host's name does not resolve to an address, so the host interceptor sets nothing; add the name to /etc/hosts"
                );
            }
            Ok(Box::new(Host { config: self, value }) as Box<dyn Interceptor>)
        })
    }
    fn headers_set(&self) -> Vec<String> {
        vec![self.header.clone()]
    }
}

/// What this host's name resolves to, the fourth version of the protocol first, as in Java.
async fn own_address(io: &Io) -> Option<IpAddr> {
    let name = machine::host_name();
    let addresses = io.resolve(&name, 0).await.ok()?;
    addresses.iter().find(|a| a.is_ipv4()).or(addresses.first()).map(|a| a.ip())
}

struct Host {
    config: Arc<Config>,
    value: Option<String>,
}

impl Interceptor for Host {
    fn intercept(&mut self, batch: &mut EventBatch) {
        if let Some(value) = &self.value {
            batch.set_header(&self.config.header, value, self.config.preserve);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{batch, through};
    use super::*;

    /// Opens it as on a host that resolves, whatever this machine's name does.
    fn opened(lines: &str, value: &str, mut input: EventBatch) -> EventBatch {
        let settings = crate::testing::settings(crate::config::Kind::Source, lines);
        let mut diagnostics = Vec::new();
        let mut cx = ParseContext::new(&settings, &mut diagnostics);
        let config = Config {
            header: cx.get(&HOST_HEADER).unwrap(),
            use_ip: cx.get(&USE_IP).unwrap(),
            preserve: cx.get(&PRESERVE_EXISTING).unwrap(),
        };
        Host { config: Arc::new(config), value: Some(value.to_owned()) }.intercept(&mut input);
        input
    }

    #[test]
    fn sets_and_preserves() {
        let out = opened("", "10.0.0.1", batch(&["host=x|a", "b"]));
        assert_eq!((out.header(0, "host"), out.header(1, "host")), (Some("10.0.0.1"), Some("10.0.0.1")));
        let out = opened("hostHeader = h\npreserveExisting = true", "10.0.0.1", batch(&["h=x|a", "b"]));
        assert_eq!((out.header(0, "h"), out.header(1, "h")), (Some("x"), Some("10.0.0.1")));
    }

    #[test]
    fn looks_up_this_host() {
        let name = machine::host_name();
        let address = through(&ENTRY, "useIP = true", batch(&["a"]));
        if let Some(address) = address.header(0, "host") {
            assert!(address.parse::<IpAddr>().is_ok(), "{address}");
        }
        let named = through(&ENTRY, "useIP = false", batch(&["a"]));
        assert!(named.header(0, "host").is_some_and(|value| !value.is_empty()), "{name}");
    }
}
