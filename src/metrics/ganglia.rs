//! Ganglia packets: Flume's `flume.monitoring.type = ganglia`.
//!
//! XDR over UDP: numbers are 32-bit big-endian, a text is its length, its bytes and zeros up to a multiple
//! of four. Ganglia 3.1 takes a description and a value packet per metric, 3.0 one packet.
//! Flume: `org.apache.flume.instrumentation.GangliaServer`.

use bytes::{BufMut, Bytes, BytesMut};

use super::directory::Snapshot;
use super::render::flume_values;

/// `slope = both`: the value may rise and fall.
const SLOPE: u32 = 3;
/// Seconds after which a missing value is late.
const TMAX: u32 = 60;
/// Seconds after which a silent metric is deleted; 0 = never.
const DMAX: u32 = 0;
/// Packet of a metric's description (3.1).
const METADATA: u32 = 128;
/// Packet of a metric's value as text (3.1).
const VALUE: u32 = 133;

/// Which Ganglia listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 3.0: `isGanglia3 = true`.
    V30,
    /// 3.1 and later.
    V31,
}

/// The packets that tell all values of these components, in the order to send them.
pub fn packets(components: &[Snapshot], host: &str, version: Version) -> Vec<Bytes> {
    let mut packets = Vec::new();
    for component in components {
        for (key, value) in flume_values(component) {
            let metric = format!("flume.{}.{}.{key}", component.group.word(), component.name);
            let kind = if value.parse::<f32>().is_ok() { "float" } else { "string" };
            match version {
                Version::V30 => packets.push(v30(host, &metric, kind, &value)),
                Version::V31 => {
                    packets.push(v31_metadata(host, &metric, kind));
                    packets.push(v31_value(host, &metric, &value));
                }
            }
        }
    }
    packets
}

fn v30(host: &str, metric: &str, kind: &str, value: &str) -> Bytes {
    let mut packet = BytesMut::with_capacity(256);
    packet.put_u32(0);
    text(&mut packet, kind);
    text(&mut packet, &format!("{host}.{metric}"));
    text(&mut packet, value);
    text(&mut packet, "");
    packet.put_u32(SLOPE);
    packet.put_u32(TMAX);
    packet.put_u32(DMAX);
    packet.freeze()
}

fn v31_metadata(host: &str, metric: &str, kind: &str) -> Bytes {
    let mut packet = BytesMut::with_capacity(256);
    packet.put_u32(METADATA);
    text(&mut packet, host);
    text(&mut packet, metric);
    packet.put_u32(0);
    text(&mut packet, kind);
    text(&mut packet, metric);
    text(&mut packet, "");
    packet.put_u32(SLOPE);
    packet.put_u32(TMAX);
    packet.put_u32(DMAX);
    packet.put_u32(1);
    text(&mut packet, "GROUP");
    text(&mut packet, "flume");
    packet.freeze()
}

fn v31_value(host: &str, metric: &str, value: &str) -> Bytes {
    let mut packet = BytesMut::with_capacity(256);
    packet.put_u32(VALUE);
    text(&mut packet, host);
    text(&mut packet, metric);
    packet.put_u32(0);
    text(&mut packet, "%s");
    text(&mut packet, value);
    packet.freeze()
}

fn text(packet: &mut BytesMut, text: &str) {
    packet.put_u32(text.len() as u32);
    packet.put_slice(text.as_bytes());
    packet.put_bytes(0, text.len().next_multiple_of(4) - text.len());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::metrics::directory::Directory;

    #[test]
    fn a_value_in_both_versions() {
        assert_eq!(
            v30("web1", "flume.SINK.k1.BatchEmptyCount", "float", "12").as_ref(),
            b"\0\0\0\0\0\0\0\x05float\0\0\0\0\0\0\x22web1.flume.SINK.k1.BatchEmptyCount\0\0\
              \0\0\0\x0212\0\0\0\0\0\0\0\0\0\x03\0\0\0\x3c\0\0\0\0"
        );
        assert_eq!(
            v31_metadata("web1", "m", "string").as_ref(),
            b"\0\0\0\x80\0\0\0\x04web1\0\0\0\x01m\0\0\0\0\0\0\0\0\0\0\x06string\0\0\0\0\0\x01m\0\0\0\0\0\0\0\
              \0\0\0\x03\0\0\0\x3c\0\0\0\0\0\0\0\x01\0\0\0\x05GROUP\0\0\0\0\0\0\x05flume\0\0\0"
        );
        assert_eq!(
            v31_value("web1", "m", "7").as_ref(),
            b"\0\0\0\x85\0\0\0\x04web1\0\0\0\x01m\0\0\0\0\0\0\0\0\0\0\x02%s\0\0\0\0\0\x017\0\0\0"
        );
    }

    #[test]
    fn every_value_is_told() {
        let directory = Directory::default();
        directory.register_sink("k1", Arc::default(), Duration::ZERO);
        let values = flume_values(&directory.snapshot()[0]).len();
        assert_eq!(packets(&directory.snapshot(), "h", Version::V30).len(), values);
        assert_eq!(packets(&directory.snapshot(), "h", Version::V31).len(), 2 * values);
    }
}
