//! One agent's components, as the file lists them.
//!
//! Flume: `org.apache.flume.conf.FlumeConfiguration`. Flume drops what it does not understand with a
//! warning and runs the rest; here an agent that is not what the operator wrote is an error.

use std::collections::{BTreeMap, HashMap};

use super::diagnostic::{Diagnostic, Location};
use super::nearest::{distance, nearest};
use super::properties::Entry;
use super::{ComponentSettings, Globals, Kind, Setting};

/// The components of one agent, in the order they are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// Name of the agent.
    pub name: String,
    /// `<agent>.sources`
    pub sources: Vec<ComponentSettings>,
    /// `<agent>.channels`
    pub channels: Vec<ComponentSettings>,
    /// `<agent>.sinks`
    pub sinks: Vec<ComponentSettings>,
    /// `<agent>.sinkgroups`
    pub sink_groups: Vec<ComponentSettings>,
    /// `<agent>.configfilters`
    pub config_filters: Vec<ComponentSettings>,
    /// What config filters gave, which no message shows.
    pub secrets: Vec<String>,
}

/// Shortest text that is hidden wherever it stands: a shorter one would blot out half of a message, and tells
/// nobody much.
pub const SECRET_CHARS_MIN: usize = 4;

const KINDS: [Kind; 5] = [Kind::Source, Kind::Channel, Kind::Sink, Kind::SinkGroup, Kind::ConfigFilter];

impl AgentConfig {
    /// Gives every component what it falls back on.
    pub fn set_globals(&mut self, globals: &Globals) {
        let all = self.sources.iter_mut().chain(&mut self.channels).chain(&mut self.sinks);
        all.chain(&mut self.sink_groups).for_each(|component| component.globals = globals.clone());
    }

    /// Remembers what a config filter gave, and the words of it, which may come up on their own.
    pub fn add_secret(&mut self, value: &str) {
        let words = value.split(|c: char| c.is_whitespace() || c == ',');
        let new = std::iter::once(value).chain(words).filter(|text| text.len() >= SECRET_CHARS_MIN);
        for text in new {
            if !self.secrets.iter().any(|known| known == text) {
                self.secrets.push(text.to_owned());
            }
        }
    }
    /// Takes what config filters gave out of complaints: it may be part of a key or of a list.
    pub fn hide_secrets(&self, diagnostics: &mut [Diagnostic]) {
        for diagnostic in diagnostics {
            let Diagnostic { subject, value, message, hint, .. } = diagnostic;
            for text in [Some(subject), value.as_mut(), Some(message), hint.as_mut()].into_iter().flatten() {
                for secret in &self.secrets {
                    if text.contains(secret.as_str()) {
                        *text = text.replace(secret.as_str(), "[secret]");
                    }
                }
            }
        }
    }

    /// Finds an agent in a file's entries. Values are resolved already. `None` after a complaint.
    pub fn read(name: &str, entries: &[Entry], diagnostics: &mut Vec<Diagnostic>) -> Option<Self> {
        let mut settings: BTreeMap<&str, Setting> = BTreeMap::new();
        for entry in entries {
            let (key, value) = (entry.key.trim(), entry.value.trim());
            if value.is_empty() {
                diagnostics.push(
                    Diagnostic::warning(key, "has no value and is ignored, as in Flume")
                        .at(Some(entry.location.clone())),
                );
                continue;
            }
            let setting =
                Setting { value: value.to_owned(), location: entry.location.clone(), is_secret: false };
            // Of several files a later one may well change a value; that is what several files are for.
            if let Some(earlier) = settings.insert(key, setting)
                && earlier.location.file == entry.location.file
                && earlier.location.line < entry.location.line
            {
                diagnostics.push(
                    Diagnostic::warning(
                        key,
                        format!("is set again; the value on line {} counts no more", earlier.location.line),
                    )
                    .value(value)
                    .at(Some(entry.location.clone())),
                );
            }
        }
        let prefix = format!("{name}.");
        let mine: BTreeMap<&str, &Setting> =
            settings.iter().filter_map(|(k, v)| Some((k.strip_prefix(&prefix)?, v))).collect();
        if mine.is_empty() {
            diagnostics.push(no_such_agent(name, &settings));
            return None;
        }
        foreign_keys(name, &settings, diagnostics);
        let mut lists: HashMap<Kind, Vec<ComponentSettings>> = HashMap::new();
        for kind in KINDS {
            lists.insert(kind, components(name, kind, &mine, diagnostics));
        }
        for (key, setting) in &mine {
            unknown_key(name, key, setting, &lists, diagnostics);
        }
        let mut take = |kind| lists.remove(&kind).unwrap_or_default();
        let config = Self {
            name: name.to_owned(),
            sources: take(Kind::Source),
            channels: take(Kind::Channel),
            sinks: take(Kind::Sink),
            sink_groups: take(Kind::SinkGroup),
            config_filters: take(Kind::ConfigFilter),
            secrets: Vec::new(),
        };
        let place = mine.values().map(|s| s.location.clone()).min();
        if config.channels.is_empty() {
            let hint = format!("add: {name}.channels = c1");
            diagnostics
                .push(Diagnostic::error(format!("{name}.channels"), "lists no channel").at(place).hint(hint));
            return None;
        }
        if config.sources.is_empty() && config.sinks.is_empty() {
            let hint = format!("add: {name}.sources = r1  and  {name}.sinks = k1");
            diagnostics.push(Diagnostic::error(name, "has neither sources nor sinks").at(place).hint(hint));
            return None;
        }
        Some(config)
    }
}

/// Lines of an agent that the file has no lists for, with a name like ours: a slip of the keyboard.
fn foreign_keys(name: &str, settings: &BTreeMap<&str, Setting>, diagnostics: &mut Vec<Diagnostic>) {
    let is_kind = |word: &str| KINDS.iter().any(|k| k.plural() == word);
    let is_agent =
        |agent: &str| KINDS.iter().any(|k| settings.contains_key(&*format!("{agent}.{}", k.plural())));
    for (key, setting) in settings {
        let Some((agent, rest)) = key.split_once('.') else { continue };
        let is_like_ours = agent != name && (agent.eq_ignore_ascii_case(name) || distance(agent, name) == 1);
        if is_like_ours && !is_agent(agent) && is_kind(rest.split('.').next().unwrap_or_default()) {
            let message =
                format!("belongs to an agent {agent:?}, which lists no components; the line is ignored");
            diagnostics.push(
                Diagnostic::warning(*key, message)
                    .value(&setting.value)
                    .at(Some(setting.location.clone()))
                    .hint(format!("did you mean {name}.{rest} ?")),
            );
        }
    }
}

fn no_such_agent(name: &str, settings: &BTreeMap<&str, Setting>) -> Diagnostic {
    let is_list = |rest: &str| KINDS.iter().any(|k| rest == k.plural());
    let mut agents: Vec<&str> = settings
        .keys()
        .filter_map(|k| k.split_once('.'))
        .filter(|(_, rest)| is_list(rest))
        .map(|(agent, _)| agent)
        .collect();
    agents.dedup();
    let hint = match agents.as_slice() {
        [] => "a flow begins with: NAME.sources = …, NAME.channels = …, NAME.sinks = …".to_owned(),
        agents => format!("start one of the agents in this file: -n {}", agents.join(", -n ")),
    };
    let location = settings.values().map(|s| s.location.clone()).min();
    Diagnostic::error(name, "no agent of this name in the configuration").at(location).hint(hint)
}

fn components(
    agent: &str,
    kind: Kind,
    mine: &BTreeMap<&str, &Setting>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<ComponentSettings> {
    let Some(list) = mine.get(kind.plural()) else { return Vec::new() };
    let mut found: Vec<ComponentSettings> = Vec::new();
    for name in list.value.split_whitespace() {
        if found.iter().any(|c| c.name == name) {
            continue;
        }
        let prefix = format!("{}.{name}.", kind.plural());
        let settings: BTreeMap<String, Setting> = mine
            .iter()
            .filter_map(|(k, v)| Some((k.strip_prefix(&prefix)?.to_owned(), (*v).clone())))
            .collect();
        let listed = Some(list.location.clone());
        let component = ComponentSettings {
            agent: agent.to_owned(),
            kind,
            name: name.to_owned(),
            settings,
            listed,
            globals: Globals::default(),
        };
        if component.settings.is_empty() {
            diagnostics.push(
                Diagnostic::error(
                    format!("{agent}.{}", kind.plural()),
                    format!("lists {name}, which has no settings"),
                )
                .value(&list.value)
                .at(Some(list.location.clone()))
                .hint(format!("add: {}.type = …  or take {name} out of the list", component.subject())),
            );
            continue;
        }
        found.push(component);
    }
    found
}

/// Keys of the agent that belong to no listed component.
fn unknown_key(
    agent: &str,
    key: &str,
    setting: &Setting,
    lists: &HashMap<Kind, Vec<ComponentSettings>>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let full = format!("{agent}.{key}");
    let at = |location: &Location| Some(location.clone());
    let warn =
        |message: String| Diagnostic::warning(&full, message).value(&setting.value).at(at(&setting.location));
    let Some((kind_word, rest)) = key.split_once('.') else {
        if !KINDS.iter().any(|k| k.plural() == key) {
            let near = nearest(key, KINDS.map(Kind::plural));
            let hint = near.map(|near| format!("did you mean {agent}.{near} ?"));
            let mut diagnostic = warn("is not a list of components; it is ignored".to_owned());
            diagnostic.hint = hint;
            diagnostics.push(diagnostic);
        }
        return;
    };
    let Some(kind) = KINDS.into_iter().find(|k| k.plural() == kind_word) else {
        let near = nearest(kind_word, KINDS.map(Kind::plural));
        let mut diagnostic = warn(format!("{kind_word:?} is no kind of component; the line is ignored"));
        diagnostic.hint = near.map(|near| format!("did you mean {agent}.{near}.{rest} ?"));
        diagnostics.push(diagnostic);
        return;
    };
    let name = rest.split('.').next().unwrap_or_default();
    let listed = lists.get(&kind).is_some_and(|list| list.iter().any(|c| c.name == name));
    if !rest.contains('.') {
        diagnostics.push(
            warn("no property behind the component's name; the line is ignored".to_owned())
                .hint(format!("perhaps {full}.type = {} ?", setting.value)),
        );
    } else if !listed {
        diagnostics.push(
            warn(format!("{} {name} is not listed; the line is ignored", kind.word()))
                .hint(format!("to use it: {agent}.{} = … {name}", kind.plural())),
        );
    }
}
