//! The command line client: ours to a real Flume, and the real one to us.

use super::*;
use crate::util::{flume_ng, scratch};

/// A file of numbered lines.
fn lines_file(path: &Path, label: &str, count: usize) {
    fs::write(path, (0..count).map(|i| format!("{label} {i}\n")).collect::<String>()).unwrap();
}

/// What both clients have: files, directories, headers, standard input, and hosts from a file.
struct Calls {
    dir: PathBuf,
    /// Arguments, standard input, and label, count, headers of what is to arrive.
    calls: Vec<(Vec<String>, Option<String>, &'static str, &'static str)>,
}

const LINES: usize = 33;

/// `balance` is sent to both of `one` and `two`, everything else to `one`.
fn calls(dir: &Path, one: u16, two: u16) -> Calls {
    let dead = free_port();
    let path = |name: &str| dir.join(name).display().to_string();
    for label in ["file", "headed", "failover", "balance"] {
        lines_file(&dir.join(label), label, LINES);
    }
    fs::create_dir(dir.join("spool")).unwrap();
    lines_file(&dir.join("spool/a"), "spooled", LINES);
    fs::write(dir.join("headers"), "# of every event\nhost = web 1\nk\\u00e9y = v\n").unwrap();
    for (name, kind, hosts) in [
        ("failover", "default_failover", vec![dead, one]),
        ("balance", "default_loadbalance", vec![one, two]),
    ] {
        let mut text = format!("client.type = {kind}\nbatch-size = 4\nhosts = h0 h1\n");
        hosts.iter().enumerate().for_each(|(i, p)| writeln!(text, "hosts.h{i} = 127.0.0.1:{p}").unwrap());
        fs::write(dir.join(format!("{name}.properties")), text).unwrap();
    }
    let to = |more: &[&str]| {
        let mut all = vec!["-H".to_owned(), "127.0.0.1".to_owned(), "-p".to_owned(), one.to_string()];
        all.extend(more.iter().map(|m| (*m).to_owned()));
        all
    };
    let props = |name: &str| {
        vec!["--rpcProps".to_owned(), path(&format!("{name}.properties")), "-F".to_owned(), path(name)]
    };
    let input = (0..LINES).map(|i| format!("input {i}\n")).collect();
    let calls = vec![
        (to(&["-F", &path("file")]), None, "file", ""),
        (to(&["-F", &path("headed"), "-R", &path("headers")]), None, "headed", "host=web 1"),
        (to(&["--dirname", &path("spool")]), None, "spooled", ""),
        (to(&[]), Some(input), "input", ""),
        (props("failover"), None, "failover", ""),
        (props("balance"), None, "balance", ""),
    ];
    Calls { dir: dir.to_owned(), calls }
}

impl Calls {
    fn run(&self, command: impl Fn() -> Command) {
        for (arguments, input, ..) in &self.calls {
            let stdin = self.dir.join("stdin");
            fs::write(&stdin, input.as_deref().unwrap_or_default()).unwrap();
            let output = command().args(arguments).stdin(fs::File::open(&stdin).unwrap()).output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{arguments:?}: {text}");
        }
    }
    fn check(&self, one: &Path, two: &Path, log: impl Fn() -> String) {
        let balance = within(PATIENCE, "the balanced lines", || {
            let parts = [one, two]
                .map(|dir| arrived(dir).into_keys().filter(|b| b.starts_with("balance")).collect::<Vec<_>>());
            (parts[0].len() + parts[1].len() == LINES).then_some(parts)
        });
        assert!(balance.iter().all(|part| !part.is_empty()), "both hosts get their part");
        let [first, second] =
            balance.map(|part| part.into_iter().map(|b| (String::new(), b)).collect::<Vec<_>>());
        let mut expected = first;
        for (.., label, header) in self.calls.iter().filter(|(.., label, _)| *label != "balance") {
            expected.extend(events(header, label, LINES));
        }
        expect(one, &expected, &log);
        expect(two, &second, log);
    }
}

#[test]
fn our_avro_client_delivers_to_flume() {
    for release in ["1.11.0", "1.5.0"] {
        let Some(script) = require_flume(release) else { return };
        let dir = scratch();
        let (one, two) = (free_port(), free_port());
        let outs = (dir.path().join("one"), dir.path().join("two"));
        let mut flow = Flow::new("f1");
        flow.files_from("one", &listening("avro", one, ""), &outs.0);
        flow.files_from("two", &listening("avro", two, ""), &outs.1);
        let flume = Flume::start(&script, release, dir.path(), &flow.text(), None, &[one, two]);
        let calls = calls(dir.path(), one, two);
        calls.run(|| {
            let mut command = flume_ng();
            command.arg("avro-client");
            command
        });
        // Flume's own client renames a file only when it comes to the next one.
        assert!(dir.path().join("spool/a.COMPLETED").exists(), "what was sent is renamed");
        calls.check(&outs.0, &outs.1, || flume.log());
    }
}

#[test]
fn flumes_avro_client_delivers_to_us() {
    let Some(script) = require_flume("1.11.0") else { return };
    let dir = scratch();
    let (one, two) = (free_port(), free_port());
    let outs = (dir.path().join("one"), dir.path().join("two"));
    let mut flow = Flow::new("a1");
    flow.files_from("one", &listening("avro", one, ""), &outs.0);
    flow.files_from("two", &listening("avro", two, ""), &outs.1);
    let agent = Start::new(dir.path(), flow.text()).started();
    let calls = calls(dir.path(), one, two);
    calls.run(|| {
        let mut command = Command::new(&script);
        command.arg("avro-client");
        command
    });
    calls.check(&outs.0, &outs.1, || agent.log());
}
