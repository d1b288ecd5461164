//! Agents of every release, both directions, every protocol and layer; the clients of their SDK.

use super::*;
use crate::util::scratch;

/// Release without its dots, for comparison.
fn number(release: &str) -> (u32, u32) {
    let mut parts = release.split('.').map(|p| p.parse().unwrap());
    (parts.next().unwrap(), parts.next().unwrap())
}

/// Every hop a release has. `us` is true for hops with our source.
fn hops(release: &str, us: bool) -> Vec<Hop> {
    let number = number(release);
    let (tls, trust) = (server_tls(), client_tls(if us { "trust.jks" } else { "trust.p12" }));
    let mut hops = vec![
        hop("plain", "avro", "", ""),
        hop("deflate", "avro", DEFLATE, format!("{DEFLATE}\ncompression-level = 1")),
        hop("tls", "avro", &*tls, &*trust),
        hop("compact", "thrift", "", ""),
    ];
    let both = format!("{trust}\n{DEFLATE}");
    hops.push(match number {
        // Up to 1.9 TLS is outside, which our source finds out and our sink is told.
        (1, ..=9) if !us => hop(
            "both",
            "avro",
            format!("{tls}\n{DEFLATE}"),
            format!("{both}\ntls-compression-order = tls-outside"),
        ),
        _ => hop("both", "avro", format!("{tls}\n{DEFLATE}"), both),
    });
    if !us {
        hops.push(hop("zstd", "avro", "", "compression-type = zstd"));
    }
    if number >= (1, 6) {
        hops.push(hop("binary", "thrift", "protocol = binary\nthreads = 4", "protocol = binary"));
        hops.push(hop("thrifttls", "thrift", &*tls, &*trust));
        // Each side without the newest version of TLS that both know.
        let old = "exclude-protocols = SSLv3 TLSv1.3";
        hops.push(hop(
            "tls12",
            "thrift",
            format!("{tls}\n{old}\nprotocol = binary"),
            format!("{trust}\nprotocol = binary"),
        ));
        hops.push(hop("tls12sink", "thrift", &*tls, format!("{trust}\n{old}")));
    }
    hops
}

/// One release in both directions, and the clients of its SDK.
fn exchange(release: &str) {
    let Some(script) = require_flume(release) else { return };
    let dir = scratch();
    let (to_us, to_them) = (hops(release, true), hops(release, false));
    let exchange = Exchange::start(&script, release, dir.path(), &to_us, &to_them, &Run::default());
    exchange.check(&to_us, &to_them);
    assert!(exchange.ours.log().contains("does not understand zstd"), "the fallback is announced");

    let port = |name: &str| exchange.ports[to_us.iter().position(|h| h.name == name).unwrap()];
    let trust = format!("ssl=true,truststore={},truststore-password=changeit", key_store("trust.jks"));
    let mut clients = vec![
        ("plain", "client.type=default,batch=100".to_owned()),
        ("plain", "client.type=default,batch=0".to_owned()),
        ("deflate", "client.type=default,batch=100,compression-type=deflate,compression-level=6".to_owned()),
        ("tls", format!("client.type=default,batch=100,{trust}")),
        ("both", format!("client.type=default,batch=100,{trust},compression-type=deflate")),
        ("compact", "client.type=thrift,batch=100".to_owned()),
    ];
    if number(release) >= (1, 6) {
        clients.push(("binary", "client.type=thrift,batch=7,protocol=binary".to_owned()));
        clients.push(("thrifttls", format!("client.type=thrift,batch=0,{trust}")));
    }
    let mut arguments = vec!["send".to_owned()];
    for (index, (hop, client)) in clients.iter().enumerate() {
        arguments
            .push(format!("label=client{index},count=60,hosts=h1,hosts.h1=127.0.0.1:{},{client}", port(hop)));
    }
    run(&script, release, &arguments);
    for hop in &to_us {
        let mut all = events("origin=agent f1", "event", EVENTS);
        for (index, _) in clients.iter().enumerate().filter(|(_, (name, _))| *name == hop.name) {
            all.extend(events(&format!("label=client{index}"), &format!("client{index}"), 60));
        }
        expect(&exchange.to_us.join(hop.name), &all, || exchange.logs());
    }
}

#[test]
fn flume_1_5_and_we_deliver_to_each_other() {
    exchange("1.5.0");
}

#[test]
fn flume_1_9_and_we_deliver_to_each_other() {
    exchange("1.9.0");
}

#[test]
fn flume_1_11_and_we_deliver_to_each_other() {
    exchange("1.11.0");
}

/// The releases between: `PEERS=full`, as in `scripts/nightly peers`.
#[test]
fn every_other_release_and_we_deliver_to_each_other() {
    if !std::env::var("PEERS").is_ok_and(|p| p == "full") {
        return eprintln!("skipped: PEERS=full also talks to 1.5.2, 1.6.0, 1.7.0, 1.8.0 and 1.10.1");
    }
    for release in ["1.7.0", "1.8.0", "1.10.1", "1.5.2", "1.6.0"] {
        eprintln!("Flume {release}");
        exchange(release);
    }
}

/// TLS and deflate in the order of another release: nothing is delivered, and the log says what to set.
#[test]
fn the_wrong_order_of_tls_and_deflate_is_explained() {
    for (release, wrong, right) in
        [("1.9.0", "deflate-outside", "tls-outside"), ("1.11.0", "tls-outside", "deflate-outside")]
    {
        let Some(script) = require_flume(release) else { return };
        let dir = scratch();
        // Flume 1.9 gives no answer to what is no TLS.
        let order = format!("tls-compression-order = {wrong}\nconnect-timeout = 3000");
        let to_them = [
            hop("good", "avro", "", ""),
            hop(
                "wrong",
                "avro",
                format!("{}\n{DEFLATE}", server_tls()),
                format!("{}\n{DEFLATE}\n{order}", client_tls("trust.p12")),
            ),
        ];
        let to_us = [hop("good", "avro", "", "")];
        let exchange = Exchange::start(&script, release, dir.path(), &to_us, &to_them, &Run::default());
        exchange.check(&to_us, &to_them[..1]);
        exchange.ours.wait_log(&format!("tls-compression-order = {right}"));
        assert!(arrived(&exchange.to_them.join("wrong")).is_empty());
    }
}
