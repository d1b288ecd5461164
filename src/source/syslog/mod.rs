//! The syslog sources: `syslogtcp`, `syslogudp` and `multiport_syslogtcp`.
//!
//! Flume puts one transaction per event. Here a transaction holds what one read, or one burst of
//! datagrams, brought: group commit instead of a sync per line. A full channel stops the reading of TCP
//! connections instead of dropping events.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use crate::channel::ChannelError;
use crate::codec::syslog::KeepFields;
use crate::config::{Property, PropertyValue};
use crate::event::EventBatch;
use crate::io::stop::Stop;
use crate::io::{Io, machine, off_core};
use crate::source::{OpenError, SourceContext};

mod classic;
pub mod multiport;
mod stream;
pub mod tcp;
pub mod udp;

const HOST: Property<String> =
    Property::optional("host", "0.0.0.0", "Host name or IP address to listen on. Not set: all of them.");
const KEEP_FIELDS: Property<Keep> = Property::optional(
    "keepFields",
    "none",
    "What stays in front of the body: `all`, `none`, or some of `priority version timestamp hostname`.",
);
const CLIENT_IP_HEADER: Property<String> =
    Property::absent("clientIPHeader", "Header to set to the sender's address. Not set: no such header.");
const CLIENT_HOSTNAME_HEADER: Property<String> = Property::absent(
    "clientHostnameHeader",
    "Header to set to the sender's name, asked of the name service once per sender; its address if it has none. Not set: no \
     such header.",
);
const EVENT_SIZE: Property<EventSize> = Property::optional(
    "eventSize",
    "2500",
    "Longest message in bytes, at least 10. A longer one comes in pieces of that size, the first marked \
     `flume.syslog.status = Incomplete`.",
);

/// Shortest event size, as Flume's constructor has it.
const EVENT_SIZE_MIN: usize = 10;
/// Longest event size: what a connection keeps of an unfinished message.
const EVENT_SIZE_MAX: usize = 16 << 20;
/// First and longest pause before a batch that a channel refused is offered again.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));
/// How long a sender's name is waited for.
const LOOKUP_TIME: Duration = Duration::from_secs(2);
/// Names of senders remembered on a shard: about 4,096 × 100 bytes. When there are more, all are forgotten.
const NAMES_MAX: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Keep(KeepFields);

impl PropertyValue for Keep {
    const KIND: &'static str = "fields";
    const EXAMPLE: &'static str = "timestamp hostname";
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(KeepFields::named(text)))
    }
    fn caution(text: &str) -> Option<String> {
        let known =
            ["none", "false", "all", "true"].iter().any(|word| text.trim().eq_ignore_ascii_case(word));
        let known = known || KeepFields::named(text) != KeepFields::default();
        (!known).then(|| "names no field; it counts as none".to_owned())
    }
}

#[derive(Clone, Copy, Debug)]
struct EventSize(usize);

impl PropertyValue for EventSize {
    const KIND: &'static str = "bytes";
    const EXAMPLE: &'static str = "2500";
    fn parse(text: &str) -> Result<Self, String> {
        match text.trim().parse() {
            Ok(size @ 1..=EVENT_SIZE_MAX) => Ok(Self(size.max(EVENT_SIZE_MIN))),
            _ => Err(format!("not a number of bytes from {EVENT_SIZE_MIN} to {EVENT_SIZE_MAX}")),
        }
    }
}

/// The headers that tell who sent an event.
#[derive(Clone, Debug, Default)]
struct ClientHeaders {
    address: Option<String>,
    name: Option<String>,
}

/// Names of senders, as the name service has them.
#[derive(Default)]
struct Names(RefCell<std::collections::HashMap<IpAddr, Rc<str>>>);

impl Names {
    async fn of(&self, io: &Io, address: IpAddr) -> Rc<str> {
        if let Some(name) = self.0.borrow().get(&address) {
            return Rc::clone(name);
        }
        let lookup = off_core(move || machine::canonical_name(address));
        let name = tokio::select! {
            name = lookup => name,
            () = io.sleep(LOOKUP_TIME) => None,
        };
        let name: Rc<str> = name.unwrap_or_else(|| address.to_string()).into();
        let mut names = self.0.borrow_mut();
        if names.len() >= NAMES_MAX {
            names.clear();
        }
        names.insert(address, Rc::clone(&name));
        name
    }
}

/// A sender's address as Java shows it: of an IPv4 address in IPv6 clothing the IPv4 address.
fn sender(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}

/// What the other sources call `bind` is `host` here.
fn blame_host(mut error: OpenError) -> OpenError {
    if error.property == "bind" {
        error.property = "host";
    }
    error
}

/// Puts a batch, again and again until the channels take it: reading waits meanwhile. False if the stop
/// came first, or the channel is closed; the events are then lost, and counted.
async fn put_patiently(cx: &SourceContext, mut batch: EventBatch, stop: &Stop) -> bool {
    let mut pause = RETRY.0;
    loop {
        let events = batch.len();
        let done = match cx.channels.process_stream(batch.clone()).await {
            Ok(()) => {
                cx.counters.event_accepted.add(events as u64);
                return true;
            }
            Err((done, error)) => {
                cx.counters.event_accepted.add(done as u64);
                cx.counters.channel_write_fail.add(1);
                let left = events - done;
                if matches!(error, ChannelError::Closed(_)) || stop.is_requested() {
                    tracing::error!(source = %cx.name, events = left, %error, "channel did not take these events; they are lost");
                    return false;
                }
                tracing::warn!(source = %cx.name, events = left, %error, "channel did not take events; reading waits");
                done
            }
        };
        drop(batch.split_to(done));
        // A stop ends the waiting, and gives the channel a last chance.
        stop.or(cx.io.sleep(pause)).await;
        pause = (pause * 2).min(RETRY.1);
    }
}
