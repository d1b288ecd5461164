//! The command line as Flume's users type it, leniency on request, and changes while the agent runs.

use std::fs;

use crate::util::{Client, PATIENCE, Start, eventually, flume_ng, free_port, millrace, output, scratch};

fn flow(port: u16) -> String {
    format!(
        "a1.sources = r1\na1.channels = c1\na1.sinks = k1\n\
         a1.sources.r1.type = netcat\na1.sources.r1.bind = 127.0.0.1\na1.sources.r1.port = {port}\n\
         a1.sources.r1.channels = c1\na1.channels.c1.type = memory\n\
         a1.sinks.k1.type = logger\na1.sinks.k1.channel = c1\n"
    )
}

#[test]
fn every_spelling_of_the_command_line_is_understood() {
    let dir = scratch();
    let file = dir.path().join("f.properties");
    fs::write(&file, flow(44444).replace("44444", "${env:PORT}")).unwrap();
    fs::write(dir.path().join("flume-env.sh"), "export PORT=44444\nexport JAVA_OPTS=\"-Xmx20m -Dx=y\"\n")
        .unwrap();
    let (conf, file) = (dir.path().to_str().unwrap(), file.to_str().unwrap());
    let uri = format!("file://{file}");
    let lines: [&[&str]; 7] = [
        &[
            "agent",
            "--conf",
            conf,
            "--name",
            "a1",
            "--conf-file",
            file,
            "-Dflume.root.logger==INFO,console",
            "-d",
        ],
        &["node", "-c", conf, "-n", "a1", "-f", file, "--dryrun", "-Xmx512m", "--no-reload-conf", "-i", "5"],
        &["agent", "-n", "a1", "-c", conf, "-u", &uri, "-C", "/x.jar", "--plugins-path", "/p", "--dryrun"],
        &["agent", "-n", "a1", "-c", conf, "-f", file, "-f", file, "-d", "-agentlib:jdwp"],
        &["check", "-n", "a1", "-c", conf, "-f", file],
        &["agent", "-n", "a1", "-c", conf, "-u", "classpath:f.properties", "-user", "u", "-pwd", "p", "-d"],
        &[
            "agent",
            "-n",
            "a1",
            "-c",
            conf,
            "-f",
            file,
            "-p",
            "/flume",
            "-prov",
            "org.apache.flume.node.UriConfigurationProvider",
            "-a",
            "org.apache.flume.node.net.BasicAuthorizationProvider",
            "-b",
            conf,
            "-d",
        ],
    ];
    for line in lines {
        for mut command in [millrace(), flume_ng()] {
            command.args(line);
            let (code, out, err) = output(command);
            assert_eq!((code, err.as_str()), (0, ""), "{line:?}");
            assert_eq!(out, "a1: 1 source, 1 channel, 1 sink: nothing to complain about\n", "{line:?}");
        }
    }
}

#[test]
fn a_wrong_command_line_ends_with_two() {
    for line in [
        &["agnet"][..],
        &["agent", "-n", "a1"],
        &["agent", "-f", "x"],
        &["agent", "-n", "a1", "-u", "ftp://h/f"],
        &["agent", "-n", "a1", "-f", "x", "-z", "h:1"],
        &["agent", "-n", "a1", "-z", "h:port"],
        &["agent", "-n", "a1", "-u", "http://h/f", "-user", "u"],
    ] {
        let mut command = millrace();
        command.args(line);
        let (code, out, err) = output(command);
        assert_eq!((code, out.as_str()), (2, ""), "{line:?}");
        assert!(err.starts_with("error: "), "{err}");
    }
}

#[test]
fn compat_starts_what_flume_would_have_started() {
    let (dir, port) = (scratch(), free_port());
    let broken = flow(port).replace("a1.sinks = k1", "a1.sinks = k1 k2 k3")
        + "a1.sinks.k2.type = logger\na1.sinks.k2.channels = c1\na1.channels.c1.capcity = 7\n";
    let agent = Start::new(dir.path(), broken).arg("--compat").started();
    assert_eq!(Client::connect(port).send("hello\n").answer(), "OK");
    let log = agent.log();
    for part in ["a1.sinks.k2.channel", "lists k3", "left out (--compat)"] {
        assert!(log.contains(part), "{part}");
    }
    assert_eq!(log.matches("a1.channels.c1.capcity = ").count(), 1, "a warning is said once:\n{log}");
    assert_eq!(agent.stop().code(), Some(0));
}

#[test]
fn a_changed_flow_is_taken_over_and_a_broken_one_is_not() {
    let (dir, port, other) = (scratch(), free_port(), free_port());
    let agent = Start::new(dir.path(), flow(port)).arg("-i").arg("1").started();
    assert_eq!(Client::connect(port).send("one\n").answer(), "OK");
    let file = dir.path().join("flow.properties");
    fs::write(&file, flow(port).replace("type = memory", "type = memroy")).unwrap();
    agent.wait_log("the old flow goes on");
    assert_eq!(Client::connect(port).send("two\n").answer(), "OK");
    fs::write(&file, flow(other)).unwrap();
    agent.wait_log("configuration changed");
    assert_eq!(Client::connect(other).send("three\n").answer(), "OK");
    assert_eq!(agent.stop().code(), Some(0));
}

/// What a command prints, if it ends well.
#[test]
fn glommio_runs_if_it_is_built_in() {
    let (dir, port) = (scratch(), free_port());
    let flow = flow(port).replace("type = memory", "type = file");
    let start = Start::new(dir.path(), flow).arg("--engine").arg("glommio");
    if cfg!(feature = "glommio") {
        let agent = start.started();
        assert!(agent.log().contains("glommio"), "{}", agent.log());
        assert_eq!(Client::connect(port).send("line\n").answer(), "OK");
        assert_eq!(agent.stop().code(), Some(0));
    } else {
        let mut agent = start.spawn();
        assert_eq!(agent.wait().code(), Some(2));
        assert!(agent.log().contains("cargo build --release --features glommio"), "{}", agent.log());
    }
}

#[test]
fn sighup_has_the_flow_read_again_at_once() {
    let dir = scratch();
    let (first, second) = (free_port(), free_port());
    let agent = Start::new(dir.path(), flow(first)).arg("--no-reload-conf").started();
    fs::write(dir.path().join("flow.properties"), flow(second)).unwrap();
    agent.signal("HUP");
    Client::connect(second).send("after\n").answer();
    // Nothing has changed: nothing restarts, and the agent is still there.
    agent.signal("HUP");
    agent.wait_log("SIGHUP");
    eventually("both requests are logged", || (agent.log().matches("SIGHUP").count() == 2).then_some(()));
    assert_eq!(Client::connect(second).send("and again\n").answer(), "OK");
    assert!(agent.stop().success());
}

#[test]
fn the_service_manager_is_told() {
    let dir = scratch();
    let path = dir.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = |what: &str| {
        let mut message = [0; 512];
        loop {
            let size = manager.recv(&mut message).unwrap_or_else(|e| panic!("never told {what}: {e}"));
            if String::from_utf8_lossy(&message[..size]).lines().any(|line| line == what) {
                return;
            }
        }
    };
    let mut agent = Start::new(dir.path(), flow(free_port()))
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "100000")
        .started();
    told("READY=1");
    told("WATCHDOG=1");
    agent.signal("TERM");
    told("STOPPING=1");
    assert!(agent.wait().success());
}

fn printed(args: &[&str]) -> String {
    let mut command = flume_ng();
    command.args(args);
    let (code, out, err) = output(command);
    assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
    out
}

#[test]
fn the_commands_that_inform() {
    let help = printed(&["help"]);
    for command in ["agent", "avro-client", "check", "describe", "doctor", "tool", "version", "help"] {
        assert!(help.lines().any(|l| l.trim_start().starts_with(command)), "{command} in {help}");
    }
    assert!(printed(&["help", "agent"]).contains("--zkConnString"));
    let version = printed(&["version"]);
    let beginnings =
        ["Millrace ", "Runs the flows of ", "Revision: ", "Compiled for ", "From executable with checksum "];
    assert_eq!(version.lines().count(), beginnings.len(), "{version}");
    for (line, beginning) in version.lines().zip(beginnings) {
        assert!(line.starts_with(beginning), "{version}");
    }
    let dir = scratch();
    let doctor = printed(&["doctor", dir.path().to_str().unwrap()]);
    for part in ["kernel", "RLIMIT_MEMLOCK", "engine of agents", "direct writes"] {
        assert!(doctor.contains(part), "{part} in {doctor}");
    }
    let sink = printed(&["describe", "null"]);
    for part in ["Every sink has:", "  channel = required", "  lanes = "] {
        assert!(sink.contains(part), "{part} in {sink}");
    }
    assert!(printed(&["describe", "hadoop"]).contains("credential.provider.path = required"));
}

#[test]
fn a_credential_is_used_and_never_shown() {
    let dir = scratch();
    let file = dir.path().join("f.properties");
    let secret = flow(44444).replace("44444", "${f['PORT_SECRET']}")
        + "a1.configfilters = f\na1.configfilters.f.type = env\na1.configfilters.f.typo = x\n";
    fs::write(&file, secret).unwrap();
    let run = |port: &str| {
        let mut command = millrace();
        command.env("PORT_SECRET", port).args(["check", "-n", "a1", "-f"]).arg(&file);
        output(command)
    };
    let (code, _, err) = run("44444");
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("a1.configfilters.f.typo"), "{err}");
    let (code, out, err) = run("hunter2");
    assert_eq!(code, 2, "{err}");
    assert!(
        err.contains("a1.sources.r1.port = \"[secret]\"") && !format!("{out}{err}").contains("hunter2"),
        "{err}"
    );
}
