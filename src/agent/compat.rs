//! `--compat`: starts what Flume would have started, naming what it left out.
//!
//! Flume: `FlumeConfiguration.AgentConfiguration.isValid`, `AbstractConfigurationProvider.loadSources`. It
//! removes a component it cannot configure, then what hangs on it, and runs the rest. A type it does not
//! know ends Flume's load as well, and so stays an error.

use super::compile::compile;
use crate::config::model::AgentConfig;
use crate::config::{ComponentSettings, Diagnostic, Severity};

/// Takes out of a configuration what does not compile, until the rest does. Every complaint about a part
/// that was left out becomes a warning that says so. Errors that remain refuse the start.
pub fn drop_what_flume_drops(mut config: AgentConfig, diagnostics: &mut Vec<Diagnostic>) -> AgentConfig {
    for diagnostic in diagnostics.iter_mut() {
        if diagnostic.message.starts_with("lists ") {
            leave_out(diagnostic);
        }
    }
    let channels: Vec<String> = config.channels.iter().map(|c| c.name.clone()).collect();
    // Each round takes at least one component or one name of a list away.
    loop {
        let mut found = Vec::new();
        compile(&config, &mut found);
        let errors: Vec<&mut Diagnostic> =
            found.iter_mut().filter(|d| d.severity == Severity::Error).collect();
        let mut changed = false;
        for error in errors {
            let is_type = error.subject.ends_with(".type") && error.message.starts_with("unknown ");
            if !is_type && remove(&mut config, &error.subject) {
                if error.message.starts_with("there is no channel")
                    && let Some(channel) = channels.iter().find(|c| error.value.as_ref() == Some(c))
                {
                    error.message = format!("its channel {channel} was left out");
                    error.hint = None;
                }
                leave_out(error);
                diagnostics.push(error.clone());
                changed = true;
            }
        }
        if !changed || (config.sources.is_empty() && config.sinks.is_empty()) {
            break;
        }
    }
    if config.sources.is_empty() && config.sinks.is_empty() {
        diagnostics.push(
            Diagnostic::error(&config.name, "nothing is left to run").hint("correct the lines named above"),
        );
    }
    config
}

fn leave_out(diagnostic: &mut Diagnostic) {
    diagnostic.severity = Severity::Warning;
    diagnostic.message = format!("{}; left out (--compat)", diagnostic.message);
}

/// Removes what a complaint is about. False if it is about none of the components.
fn remove(config: &mut AgentConfig, subject: &str) -> bool {
    let names: Vec<String> = config.channels.iter().map(|c| c.name.clone()).collect();
    let sinks: Vec<String> = config.sinks.iter().map(|c| c.name.clone()).collect();
    let lists = [&mut config.sources, &mut config.sinks, &mut config.sink_groups, &mut config.channels];
    for list in lists {
        let about = |c: &ComponentSettings| {
            subject.strip_prefix(&c.subject()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let Some(index) = list.iter().position(about) else { continue };
        // A list of channels or sinks shrinks to those that are left.
        let component = &mut list[index];
        for (key, left) in [("channels", &names), ("sinks", &sinks)] {
            if subject == component.full_key(key)
                && let Some(setting) = component.settings.get_mut(key)
            {
                let before: Vec<&str> = setting.value.split_whitespace().collect();
                let mut after: Vec<&str> = Vec::new();
                for name in &before {
                    if left.iter().any(|l| l == name) && !after.contains(name) {
                        after.push(name);
                    }
                }
                if !after.is_empty() && after.len() < before.len() {
                    setting.value = after.join(" ");
                    return true;
                }
            }
        }
        list.remove(index);
        return true;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::properties;

    fn compat(flow: &str) -> (Vec<String>, String) {
        let entries = properties::parse("f", flow.as_bytes()).unwrap();
        let mut diagnostics = Vec::new();
        let config = AgentConfig::read("a1", &entries, &mut diagnostics).unwrap();
        let config = drop_what_flume_drops(config, &mut diagnostics);
        let names = |list: &[ComponentSettings]| list.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
        let left = [names(&config.sources), names(&config.channels), names(&config.sinks)].concat();
        (left, diagnostics.iter().map(|d| format!("{d}\n")).collect())
    }

    const FLOW: &str = "a1.sources = r1\na1.channels = c1 c2\na1.sinks = k1 k2\n\
        a1.channels.c1.type = memory\na1.channels.c2.type = memory\n\
        a1.sinks.k1.type = logger\na1.sinks.k1.channel = c1\na1.sinks.k2.type = logger\na1.sinks.k2.channel = c2\n\
        a1.sources.r1.type = netcat\na1.sources.r1.bind = h\na1.sources.r1.port = 1\na1.sources.r1.channels = c1 c2\n";

    #[test]
    fn a_broken_part_goes_and_the_rest_stays() {
        assert_eq!(compat(FLOW).0, ["r1", "c1", "c2", "k1", "k2"]);
        let (left, said) = compat(&FLOW.replace("k2.channel = c2", "k2.channel = c9"));
        assert_eq!(left, ["r1", "c1", "c2", "k1"]);
        assert!(said.contains("warning: a1.sinks.k2.channel") && said.contains("left out"), "{said}");
    }

    #[test]
    fn what_hangs_on_it_goes_too() {
        let (left, said) = compat(&(FLOW.to_owned() + "a1.channels.c2.capacity = many\n"));
        assert_eq!(left, ["r1", "c1", "k1"], "{said}");
        assert!(!said.contains("error:"), "{said}");
        assert!(
            said.contains("a1.sinks.k2.channel = \"c2\": its channel c2 was left out; left out"),
            "{said}"
        );
    }

    #[test]
    fn an_unknown_type_stays_an_error() {
        let (left, _) = compat(&FLOW.replace("k2.type = logger", "k2.type = loger"));
        assert!(left.contains(&"k2".to_owned()));
    }

    #[test]
    fn nothing_left_is_an_error() {
        let (_, said) = compat(
            "a1.sources = r1\na1.channels = c1\na1.channels.c1.type = memory\n\
             a1.sources.r1.type = netcat\na1.sources.r1.port = x\na1.sources.r1.channels = c1\n",
        );
        assert!(said.contains("nothing is left to run"), "{said}");
    }
}
