//! What is said about properties that do not go together, and about the parts of sources and sink groups: one
//! snapshot, to be read as an operator reads it.

use super::tests::{complaints, complaints_of};
use crate::config::model::AgentConfig;
use crate::config::properties;
use crate::config_filter::{self, World};
use crate::io::{EngineKind, run_local};
use crate::registry;

/// Lines below a component's key.
fn below(key: &str, lines: &str) -> String {
    lines.lines().map(|line| format!("a1.{key}.{}\n", line.trim())).collect()
}

/// A flow with two channels and two sinks, of whose parts these are other than usual.
fn flow(source: &str, channel: &str, sink: &str, more: &str) -> String {
    let or =
        |lines: &str, usual: &'static str| if lines.is_empty() { usual.to_owned() } else { lines.to_owned() };
    let source = below("sources.r1", &or(source, "type = seq"));
    let channel = below("channels.c1", &or(channel, "type = memory"));
    let sink = below("sinks.k1", &or(sink, "type = null"));
    format!(
        "a1.sources = r1\na1.channels = c1 c2\na1.sinks = k1 k2\na1.sources.r1.channels = c1 c2\n{source}{channel}{sink}\
         a1.sinks.k1.channel = c1\na1.channels.c2.type = memory\na1.sinks.k2.type = null\na1.sinks.k2.channel = c2\n{more}"
    )
}

fn tell(what: &str, said: String) -> String {
    assert!(!said.trim().is_empty(), "nothing is said: {what}");
    for one in said.split("\n\n").filter(|one| !one.trim().is_empty()) {
        assert!(one.contains("\n  --> "), "no line: {one}");
    }
    format!("== {what}\n{said}")
}

#[test]
fn selectors_and_processors() {
    let selector = |lines: &str| flow(&format!("type = seq\n{lines}"), "", "", "");
    let group = |lines: &str| {
        let one = "a1.sinkgroups = g1\na1.sinkgroups.g1.sinks = k1 k2\n";
        flow("", "", "", &format!("{one}{}", below("sinkgroups.g1", lines)))
    };
    let multiplexing = "selector.type = multiplexing\nselector.header = state";
    let slips = [
        ("a selector that does not exist", selector("selector.type = multiplex")),
        ("a selector of one's own", selector("selector.type = com.example.Mine")),
        ("an optional channel the source does not have", selector("selector.optional = c2 c3")),
        ("a default the source does not have", selector(&format!("{multiplexing}\nselector.default = c"))),
        (
            "a mapping to a channel the source does not have",
            selector(&format!("{multiplexing}\nselector.mapping.READ = c1 cc2\nselector.default = c1")),
        ),
        (
            "an optional mapping to a channel the source does not have",
            selector(&format!("{multiplexing}\nselector.optional.READ = d\nselector.default = c1")),
        ),
        ("no default", selector(&format!("{multiplexing}\nselector.mapping.READ = c1"))),
        ("nothing but the type", selector("selector.type = multiplexing")),
        (
            "a mapping on the source",
            selector(&format!("{multiplexing}\nmapping.READ = c1\nselector.default = c2")),
        ),
        (
            "a mapping beside the source",
            selector(&format!("{multiplexing}\nselector.default = c2")) + "a1.sources.s1.mapping.READ = c1\n",
        ),
        (
            "the three mistakes of a published flow",
            selector(
                "selector.type = multiplexing\nselector.head = state\nselector.mapping.READ = c1\nselector.default = c",
            ) + "a1.sources.s1.mapping.WRITE = c2\n",
        ),
        (
            "a policy that does not exist",
            selector("selector.type = load_balancing\nselector.policy = roundrobin"),
        ),
        ("a mapping nobody reads", selector("selector.type = replicating\nselector.mapping.x = c1")),
        ("a processor that does not exist", group("processor.type = fail_over")),
        ("a processor of one's own", group("processor.type = com.example.Mine")),
        ("the default with two sinks", group("processor.type = default")),
        (
            "priorities of others and twice the same",
            group(
                "processor.type = failover\nprocessor.priority.k1 = 5\nprocessor.priority.k2 = 5\nprocessor.priority.k3 = 7",
            ),
        ),
        ("a priority that is no number", group("processor.type = failover\nprocessor.priority.k1 = high")),
        ("a penalty that is no number", group("processor.type = failover\nprocessor.maxpenalty = 10s")),
        ("a selector of sinks", group("processor.type = load_balance\nprocessor.selector = sticky")),
        (
            "a selector of sinks of one's own",
            group("processor.type = load_balance\nprocessor.selector = com.example.Mine"),
        ),
        (
            "load balancing with one sink",
            flow(
                "",
                "",
                "",
                "a1.sinkgroups = g1\na1.sinkgroups.g1.sinks = k1\na1.sinkgroups.g1.processor.type = load_balance\n",
            ),
        ),
        (
            "a sink in two groups",
            flow(
                "",
                "",
                "",
                "a1.sinkgroups = g1 g2\na1.sinkgroups.g1.sinks = k1 k2\na1.sinkgroups.g1.processor.type = failover\na1.sinkgroups.g2.sinks = k2\n",
            ),
        ),
        (
            "a group without sinks",
            flow("", "", "", "a1.sinkgroups = g1\na1.sinkgroups.g1.processor.type = failover\n"),
        ),
    ];
    let said: String = slips.iter().map(|(what, flow)| tell(what, complaints(flow))).collect();
    insta::assert_snapshot!(said);
}

#[test]
fn properties_that_do_not_go_together() {
    let source = |lines: &str| flow(lines, "", "", "");
    let channel = |lines: &str| flow("", lines, "", "");
    let sink = |lines: &str| flow("", "", lines, "");
    let interceptor = |lines: &str| {
        let lines: String = lines.lines().map(|line| format!("\ninterceptors.i1.{}", line.trim())).collect();
        source(&format!("type = seq\ninterceptors = i1{lines}"))
    };
    let hdfs = |lines: &str| {
        let rolls = "hdfs.rollInterval = 3600\nhdfs.rollSize = 0\nhdfs.rollCount = 0";
        sink(&format!("type = hdfs\nhdfs.path = /x\n{rolls}\n{lines}"))
    };
    let tls = "type = avro\nbind = h\nport = 1\nssl = true";
    let keys = "type = file\nencryption.activeKey = k\nencryption.cipherProvider = AESCTRNOPADDING\n\
        encryption.keyProvider = JCEKSFILE\nencryption.keyProvider.keyStoreFile = /s\n\
        encryption.keyProvider.keyStorePasswordFile = /p";
    let slips = [
        ("TLS without a key store", source(tls)),
        ("a key store without its password", source(&format!("{tls}\nkeystore = /k"))),
        (
            "TLS without a version",
            source(&format!("{tls}\nkeystore = /k\nkeystore-password = p\ninclude-protocols = TLSv1.1")),
        ),
        ("rules nobody asks for", source("type = avro\nbind = h\nport = 1\nipFilter = true")),
        (
            "a rule that is none",
            source("type = avro\nbind = h\nport = 1\nipFilter = true\nipFilterRules = allow 10.0.0.1"),
        ),
        (
            "ports twice, and a character set of another",
            source("type = multiport_syslogtcp\nhost = h\nports = 1 2 1\ncharset.port.3 = UTF-8"),
        ),
        (
            "ports that are none",
            source("type = multiport_syslogtcp\nhost = h\nports = 1 x\ncharset.port.y = UTF-8"),
        ),
        ("an avro source's frames", source("type = avro\nbind = h\nport = 1\nmaxFrameSize = 7")),
        ("a thrift protocol", source("type = thrift\nbind = h\nport = 1\nprotocol = Binary")),
        ("exec tail", source("type = exec\ncommand = tail -F /x")),
        (
            "a transaction larger than the channel",
            channel("type = memory\ncapacity = 10\ntransactionCapacity = 100"),
        ),
        ("no capacity", channel("type = memory\ncapacity = 0\ntransactionCapacity = -1")),
        ("more than all bytes", channel("type = memory\nbyteCapacityBufferPercentage = 101")),
        (
            "a transaction larger than a file channel",
            channel("type = file\ncapacity = 10\ntransactionCapacity = 100"),
        ),
        ("room for nothing", channel("type = spillablememory\nmemoryCapacity = 0\noverflowCapacity = 0")),
        ("encryption without a provider", channel("type = file\nencryption.keyProvider.keys = k")),
        (
            "two providers of keys",
            channel("type = file\nencryption.keyFile = /k\nencryption.keyProvider = JCEKSFILE"),
        ),
        ("encryption by halves", channel("type = file\nencryption.activeKey = k")),
        ("an active key that is none", channel(&format!("{keys}\nencryption.keyProvider.keys = l"))),
        ("a provider of one's own", channel(&keys.replace("JCEKSFILE", "com.example.Mine"))),
        ("a compressed file without a codec", hdfs("hdfs.fileType = CompressedStream")),
        ("a codec of a file that is not compressed", hdfs("hdfs.fileType = DataStream\nhdfs.codeC = gzip")),
        ("a codec that does not exist", hdfs("hdfs.fileType = CompressedStream\nhdfs.codeC = lzop")),
        ("a principal without a keytab", hdfs("hdfs.kerberosPrincipal = p")),
        ("a keytab without a principal", hdfs("hdfs.kerberosKeytab = /k")),
        ("a rounding of no unit", hdfs("hdfs.round = true\nhdfs.roundUnit = day")),
        (
            "a rounding beyond the unit",
            hdfs("hdfs.round = true\nhdfs.roundUnit = hour\nhdfs.roundValue = 30"),
        ),
        (
            "events that stay until a close that never comes",
            hdfs("hdfs.durability = close").replace("= 3600", "= 0"),
        ),
        ("what has no effect", hdfs("hdfs.minBlockReplicas = 1")),
        ("a mistyped format", hdfs("hdfs.wtireFormat = Text")),
        ("many files a day", sink("type = hdfs\nhdfs.path = /x\nhdfs.rollInterval = 30")),
        (
            "a directory for each minute",
            hdfs("hdfs.useLocalTimeStamp = true").replace("= /x", "= /x/%Y-%m-%d/%H%M"),
        ),
        ("an escape that is none", hdfs("").replace("= /x", "= /x/%[home]")),
        ("a serializer that does not exist", hdfs("hdfs.fileType = DataStream\nserializer = avro")),
        (
            "a container's blocks and codec",
            hdfs(
                "hdfs.fileType = DataStream\nserializer = avro_event\nserializer.syncIntervalBytes = 1\nserializer.compressionCodec = lzo",
            ),
        ),
        (
            "a schema nowhere",
            hdfs(
                "hdfs.fileType = DataStream\nserializer = org.apache.flume.sink.hdfs.AvroEventSerializer$Builder\nserializer.schemaURL = /s.avsc",
            ),
        ),
        (
            "an option of another serializer",
            hdfs("hdfs.fileType = DataStream\nserializer = TEXT\nserializer.compressionCodec = snappy"),
        ),
        (
            "an avro sink's small numbers",
            sink(
                "type = avro\nhostname = h\nport = 1\nbatch-size = 0\nconnect-timeout = 10\ncompression-type = deflate\ncompression-level = 10",
            ),
        ),
        ("an http sink that keeps what was taken", sink("type = http\nendpoint = http://h/")),
        ("an http sink to nowhere", sink("type = http\nendpoint = ftp://h/")),
        ("more lanes than anybody has", sink("type = null\nlanes = 100000")),
        (
            "serializers without groups",
            interceptor(
                "type = regex_extractor\nregex = a(b)\nserializers = s1 s2\nserializers.s1.name = x\nserializers.s2.name = y",
            ),
        ),
        (
            "a serializer without a header",
            interceptor("type = regex_extractor\nregex = (a)\nserializers = s1"),
        ),
        (
            "a date without a form",
            interceptor(
                "type = regex_extractor\nregex = (a)\nserializers = s1\nserializers.s1.name = x\nserializers.s1.type = org.apache.flume.interceptor.RegexExtractorInterceptorMillisSerializer",
            ),
        ),
        (
            "a group that is not there",
            interceptor("type = search_replace\nsearchPattern = a\nreplaceString = $1"),
        ),
        ("nothing to remove", interceptor("type = remove_header")),
        ("an expression that is none", interceptor("type = regex_filter\nregex = (a")),
        ("an interceptor of one's own", interceptor("type = com.example.Mine$Builder")),
    ];
    let said: String = slips.iter().map(|(what, flow)| tell(what, complaints(flow))).collect();
    insta::assert_snapshot!(said);
}

#[test]
fn headers_on_their_way() {
    let hdfs = |path: &str| {
        format!(
            "type = hdfs\nhdfs.path = {path}\nhdfs.rollInterval = 3600\nhdfs.rollSize = 0\nhdfs.rollCount = 0"
        )
    };
    let spool = "type = spooldir\nspoolDir = /s";
    let netcat = "type = netcat\nbind = h\nport = 1";
    let multiplexing =
        "selector.type = multiplexing\nselector.mapping.a = c1\nselector.default = c2\nselector.header";
    let slips = [
        (
            "basename, as many write it",
            flow(&format!("{spool}\nbasenameHeader = true"), "", &hdfs("/x/%{fileName}"), ""),
        ),
        ("basename, not switched on", flow(spool, "", &hdfs("/x/%{basename}"), "")),
        ("a prefix", flow(netcat, "", &format!("{}\nhdfs.filePrefix = %{{host}}", hdfs("/x")), "")),
        (
            "a header of another name",
            flow(
                &format!(
                    "{netcat}\ninterceptors = i1 i2\ninterceptors.i1.type = host\ninterceptors.i2.type = static\ninterceptors.i2.key = state"
                ),
                "",
                &hdfs("/x/%{stat}"),
                "",
            ),
        ),
        (
            "a header that is removed on the way",
            flow(
                &format!(
                    "{netcat}\ninterceptors = i1 i2\ninterceptors.i1.type = host\ninterceptors.i2.type = remove_header\ninterceptors.i2.withName = host"
                ),
                "",
                &hdfs("/x/%{host}"),
                "",
            ),
        ),
        ("a time from one of two sources", {
            let second = "a1.sources.r2.type = seq\na1.sources.r2.channels = c1\na1.sources.r2.interceptors = i1\n\
                a1.sources.r2.interceptors.i1.type = timestamp\n";
            flow(netcat, "", &hdfs("/x/%Y-%m-%d/%H"), second).replace("a1.sources = r1", "a1.sources = r1 r2")
        }),
        ("a time from all but an http source's clients", {
            let second = "a1.sources.r2.type = http\na1.sources.r2.port = 2\na1.sources.r2.channels = c1\n";
            flow(netcat, "", &hdfs("/x/%Y-%m-%d/%{any}"), second)
                .replace("a1.sources = r1", "a1.sources = r1 r2")
        }),
        ("a selector on a mistyped header", {
            let fixed = "interceptors = i1\ninterceptors.i1.type = static\ninterceptors.i1.key = state\ninterceptors.i1.value = a";
            flow(&format!("{netcat}\n{fixed}\n{multiplexing} = stat"), "", "", "")
        }),
        (
            "a selector on a header without an interceptor",
            flow(&format!("{netcat}\n{multiplexing} = state"), "", "", ""),
        ),
        (
            "a selector on a time under another name",
            flow(
                &format!(
                    "{netcat}\ninterceptors = i1\ninterceptors.i1.type = timestamp\ninterceptors.i1.headerName = when\n{multiplexing} = timestamp"
                ),
                "",
                "",
                "",
            ),
        ),
    ];
    let said: String = slips.iter().map(|(what, flow)| tell(what, complaints(flow))).collect();
    insta::assert_snapshot!(said);
}

#[test]
fn config_filters() {
    let filters = |types: &str, value: &str| {
        let lines: String =
            types.lines().map(|line| format!("a1.configfilters.f1.{}\n", line.trim())).collect();
        flow("", "", "", &format!("a1.configfilters = f1\n{lines}a1.channels.c1.capacity = {value}\n"))
    };
    let slips = [
        ("a filter that does not exist", filters("type = hadop", "100")),
        ("a filter of one's own", filters("type = com.example.Mine", "${f1['x']}")),
        ("a filter without a type", filters("x = y", "100")),
        ("a name that is no filter", filters("type = env", "${f2['CAPACITY']}")),
        ("a key that is not there", filters("type = env", "${f1['CAPACITIES']}")),
        ("a value that does not fit", filters("type = env", "${f1['SECRET']}")),
        ("no command", filters("type = external", "${f1['x']}")),
        (
            "a command that does not exist",
            filters("type = external\ncommand = /nosuch/command", "${f1['x']}"),
        ),
        ("no store", filters("type = hadoop", "${f1['x']}")),
        ("a store elsewhere", filters("type = hadoop\ncredential.provider.path = user:///", "${f1['x']}")),
        (
            "a store that is not there",
            filters(
                "type = hadoop\ncredential.provider.path = localjceks://file/nosuch/store.jceks",
                "${f1['x']}",
            ),
        ),
        (
            "a password file that is not there",
            filters(
                "type = hadoop\ncredential.provider.path = localjceks://file/nosuch/store.jceks\n\
                 credstore.java-keystore-provider.password-file = /nosuch/password",
                "${f1['x']}",
            ),
        ),
    ];
    let env = |name: &str| (name == "SECRET").then(|| "hunter2".to_owned());
    let said = slips.iter().map(|(what, flow)| {
        let entries = properties::parse("flow.properties", flow.as_bytes()).unwrap();
        let mut diagnostics = Vec::new();
        let mut config = AgentConfig::read("a1", &entries, &mut diagnostics).unwrap();
        run_local(EngineKind::Portable, |io| async {
            let world = World { io, env: &env, conf: None };
            config_filter::apply(&mut config, registry::CONFIG_FILTERS, &world, &mut diagnostics).await;
        })
        .unwrap();
        tell(what, complaints_of(&config, diagnostics))
    });
    let said: String = said.collect();
    assert!(!said.contains("hunter2"));
    insta::assert_snapshot!(said);
}
