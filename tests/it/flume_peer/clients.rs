//! Flume's SDK with several hosts and its log4j appender, into our sources.

use super::*;
use crate::util::scratch;

#[test]
fn flumes_clients_with_several_hosts_and_its_appender_deliver_to_us() {
    let Some(script) = require_flume("1.11.0") else { return };
    let dir = scratch();
    let (one, two, dead) = (free_port(), free_port(), free_port());
    let mut flow = Flow::new("a1");
    flow.files_from("one", &listening("avro", one, ""), &dir.path().join("one"));
    flow.files_from("two", &listening("avro", two, ""), &dir.path().join("two"));
    let agent = Start::new(dir.path(), flow.text()).started();
    let hosts = |hosts: &[u16]| {
        let names: Vec<_> = (0..hosts.len()).map(|i| format!("h{i}")).collect();
        let mut text = format!("hosts={}", names.join(";"));
        for (name, port) in names.iter().zip(hosts) {
            write!(text, ",hosts.{name}=127.0.0.1:{port}").unwrap();
        }
        text
    };
    let send = [
        "send".to_owned(),
        format!(
            "label=failover,count={EVENTS},client.type=default_failover,batch=50,{}",
            hosts(&[dead, two])
        ),
        format!(
            "label=balance,count={EVENTS},client.type=default_loadbalance,batch=5,{}",
            hosts(&[dead, one, two])
        ),
    ];
    run(&script, "1.11.0", &send);
    run(&script, "1.11.0", &["log4j", "127.0.0.1", &one.to_string(), "20"].map(str::to_owned));
    let both = || {
        let mut all = arrived(&dir.path().join("one"));
        all.extend(arrived(&dir.path().join("two")));
        all
    };
    within(PATIENCE, "everything", || (both().len() == 2 * EVENTS + 20).then_some(()));
    let (one, two) = (arrived(&dir.path().join("one")), arrived(&dir.path().join("two")));
    let count = |found: &BTreeMap<String, (String, usize)>, label: &str| {
        found.keys().filter(|body| body.starts_with(label)).count()
    };
    assert_eq!((count(&two, "failover"), count(&one, "log4j")), (EVENTS, 20));
    assert!(count(&one, "balance") > 0 && count(&two, "balance") > 0, "both get their part");
    assert_eq!(count(&one, "balance") + count(&two, "balance"), EVENTS);
    assert!(one.values().chain(two.values()).all(|(_, times)| *times == 1), "each came once");
    let (headers, _) = &two["failover 0"];
    assert!(headers.contains("kéy=välue €"), "{headers}");
    drop(agent);
}
