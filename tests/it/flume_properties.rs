//! Every property of Flume's components, held against the registry: none is missing, and none has another
//! default than in Flume without a reason written down here.

use std::collections::HashMap;

use millrace::config::PropertySpec;
use millrace::registry;

const TABLE: &str = include_str!("../fixtures/registry/flume.txt");

/// What every server with TLS has, and every client.
const SERVER_TLS: &[(&str, &str)] = &[
    ("ssl", "false"),
    ("keystore", "-"),
    ("keystore-password", "-"),
    ("keystore-type", "-"),
    ("include-protocols", "-"),
    ("exclude-protocols", "-"),
    ("include-cipher-suites", "-"),
    ("exclude-cipher-suites", "-"),
];
const CLIENT_TLS: &[(&str, &str)] = &[
    ("ssl", "false"),
    ("truststore", "-"),
    ("truststore-password", "-"),
    ("truststore-type", "-"),
    ("include-protocols", "-"),
    ("exclude-protocols", "-"),
    ("include-cipher-suites", "-"),
    ("exclude-cipher-suites", "-"),
];

/// Where this program says something else, and why.
const DEVIATIONS: &[(&str, &str, &str)] = &[
    ("source avro", "threads", "0 and unset mean the same, and threads are cores here"),
    ("source thrift", "threads", "0 and unset mean the same, and threads are cores here"),
    ("source netcatudp", "bind", "unset means all interfaces, which is what 0.0.0.0 says"),
    ("source syslogtcp", "host", "unset means all interfaces, which is what 0.0.0.0 says"),
    ("source syslogudp", "host", "unset means all interfaces, which is what 0.0.0.0 says"),
    ("source multiport_syslogtcp", "host", "unset means all interfaces, which is what 0.0.0.0 says"),
    ("source multiport_syslogtcp", "batchSize", "unset means what one read brings, in fewer transactions"),
    ("sink hdfs", "hdfs.codeC", "Flume accepts none for no codec; it is written out"),
    ("sink avro", "hostname", "required unless `hosts` is set, which the sink checks itself"),
    ("sink avro", "port", "required unless `hosts` is set, which the sink checks itself"),
    ("sink thrift", "hostname", "required unless `hosts` is set, which the sink checks itself"),
    ("sink thrift", "port", "required unless `hosts` is set, which the sink checks itself"),
    ("sink avro", "maxBackoff", "the default of Flume's client, 30 s, written out"),
    ("sink avro", "host-selector", "the default of Flume's client, written out"),
];

type Specs = &'static [&'static dyn PropertySpec];

fn registered() -> HashMap<String, Specs> {
    let mut all = HashMap::new();
    macro_rules! rows {
        ($kind:literal, $table:expr) => {
            for entry in $table {
                for name in [entry.name, entry.class] {
                    all.insert(format!("{} {}", $kind, name.to_lowercase()), entry.properties);
                }
            }
        };
    }
    rows!("source", registry::SOURCES);
    rows!("sink", registry::SINKS);
    rows!("channel", registry::CHANNELS);
    rows!("selector", registry::SELECTORS);
    rows!("processor", registry::SINK_PROCESSORS);
    rows!("interceptor", registry::INTERCEPTORS);
    all
}

/// How this program declares a property, in the words of the table.
fn declared(spec: &dyn PropertySpec) -> String {
    match (spec.is_required(), spec.default()) {
        (true, _) => "!".to_owned(),
        (false, default) => default.unwrap_or("-").to_owned(),
    }
}

#[test]
fn every_property_of_flume_is_there_with_its_default() {
    let registered = registered();
    let mut problems = Vec::new();
    let (mut component, mut specs, mut properties) = (String::new(), None::<Specs>, 0);
    for line in TABLE.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let Some(property) = line.strip_prefix("  ") else {
            let (kind, name) = line.split_once(' ').expect("kind and type");
            component = line.to_owned();
            specs = registered.get(&format!("{kind} {}", name.to_lowercase())).copied();
            if specs.is_none() {
                problems.push(format!("{component}: not registered"));
            }
            continue;
        };
        let wanted: Vec<(&str, &str)> = match property {
            "@server-tls" => SERVER_TLS.to_vec(),
            "@client-tls" => CLIENT_TLS.to_vec(),
            line => vec![line.split_once(' ').expect("property and default")],
        };
        for (name, default) in wanted {
            properties += 1;
            let Some(spec) = specs.and_then(|specs| specs.iter().find(|spec| spec.name() == name)) else {
                problems.push(format!("{component}: no property {name}"));
                continue;
            };
            let ours = declared(*spec);
            let deviates = DEVIATIONS.iter().any(|(of, property, _)| *of == component && *property == name);
            if spec.is_family() != name.ends_with('.') {
                problems.push(format!("{component}: {name} is a family in one place only"));
            }
            if ours.eq_ignore_ascii_case(default) == deviates {
                problems.push(format!("{component}: {name} is {default} in Flume and {ours} here"));
            }
        }
    }
    assert!(properties > 300, "the table has {properties} properties");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
