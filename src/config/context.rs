//! What a component's `parse` sees: its own settings, and a place for complaints.

use std::collections::BTreeMap;

use super::diagnostic::{Diagnostic, Location};
use super::globals::Globals;
use super::nearest::distance;
use super::property::{Property, PropertySpec, PropertyValue};

/// One value with the place it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Trimmed, substituted value; never empty (Flume ignores empty values).
    pub value: String,
    /// Where the key stands.
    pub location: Location,
    /// Comes from a config filter and is not to be shown.
    pub is_secret: bool,
}

impl Setting {
    /// The value, for messages.
    pub fn shown(&self) -> &str {
        if self.is_secret { "[secret]" } else { &self.value }
    }
}

/// What kind of component; its plural is the word in keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `sources`
    Source,
    /// `channels`
    Channel,
    /// `sinks`
    Sink,
    /// `sinkgroups`
    SinkGroup,
    /// `configfilters`
    ConfigFilter,
}

impl Kind {
    /// The word in a key: `a1.sources.r1.type`.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Source => "sources",
            Self::Channel => "channels",
            Self::Sink => "sinks",
            Self::SinkGroup => "sinkgroups",
            Self::ConfigFilter => "configfilters",
        }
    }
    /// The word in messages.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Channel => "channel",
            Self::Sink => "sink",
            Self::SinkGroup => "sink group",
            Self::ConfigFilter => "config filter",
        }
    }
}

/// The settings of one component: everything below `<agent>.<kind>.<name>.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentSettings {
    /// Name of the agent.
    pub agent: String,
    /// Kind of the component.
    pub kind: Kind,
    /// Name of the component.
    pub name: String,
    /// Key below the component to value.
    pub settings: BTreeMap<String, Setting>,
    /// Where the component is listed (`a1.sources = r1`).
    pub listed: Option<Location>,
    /// What it falls back on.
    pub globals: Globals,
}

impl ComponentSettings {
    /// Full key as the operator wrote it.
    pub fn full_key(&self, key: &str) -> String {
        format!("{}.{}.{}.{key}", self.agent, self.kind.plural(), self.name)
    }
    /// The component as the operator wrote it: `a1.sources.r1`.
    pub fn subject(&self) -> String {
        format!("{}.{}.{}", self.agent, self.kind.plural(), self.name)
    }
}

/// Settings of a component, or of a part of it (`interceptors.i1.`), while it is parsed.
pub struct ParseContext<'a> {
    component: &'a ComponentSettings,
    prefix: String,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl<'a> ParseContext<'a> {
    /// A context over a whole component.
    pub fn new(component: &'a ComponentSettings, diagnostics: &'a mut Vec<Diagnostic>) -> Self {
        Self { component, prefix: String::new(), diagnostics }
    }
    /// The same component seen below a further prefix, for example `serializer.`.
    pub fn below(&mut self, prefix: &str) -> ParseContext<'_> {
        ParseContext {
            component: self.component,
            prefix: format!("{}{prefix}", self.prefix),
            diagnostics: self.diagnostics,
        }
    }
    /// The component's settings as a whole.
    pub fn component(&self) -> &'a ComponentSettings {
        self.component
    }
    /// The component's name.
    pub fn name(&self) -> &'a str {
        &self.component.name
    }
    /// The agent's name.
    pub fn agent(&self) -> &'a str {
        &self.component.agent
    }
    /// What the component falls back on.
    pub fn globals(&self) -> &'a Globals {
        &self.component.globals
    }
    /// A setting as written, without declaration or default.
    pub fn raw(&self, key: &str) -> Option<&'a Setting> {
        self.component.settings.get(&format!("{}{key}", self.prefix))
    }
    /// Full key of a property here.
    pub fn full_key(&self, key: &str) -> String {
        self.component.full_key(&format!("{}{key}", self.prefix))
    }
    /// The value, or the default. `None` only after a complaint, so a parse function asks for all its
    /// properties first and gives up (with `?`) last.
    pub fn get<T: PropertyValue>(&mut self, property: &Property<T>) -> Option<T> {
        match self.raw(property.name()) {
            Some(setting) => self.read(property.name(), setting, property.shown_example()),
            None => match property.default() {
                Some(text) => {
                    Some(T::parse(text).unwrap_or_else(|e| panic!("default of {}: {e}", property.name())))
                }
                None => {
                    let key = self.full_key(property.name());
                    let mut complaint =
                        Diagnostic::error(&key, "is required and not set").at(self.component.listed.clone());
                    let example = Some(property.shown_example()).filter(|e| !e.is_empty()).unwrap_or("…");
                    let hint = match self.mistyped(property.name()) {
                        Some((near, setting)) => {
                            complaint.location = Some(setting.location.clone());
                            format!("did you mean {key} where you wrote {} ?", self.full_key(near))
                        }
                        None => format!("add: {key} = {example}"),
                    };
                    complaint.hint = Some(hint);
                    self.diagnostics.push(complaint);
                    None
                }
            },
        }
    }
    /// A setting whose key looks like a mistyped `name`.
    fn mistyped(&self, name: &str) -> Option<(&'a str, &'a Setting)> {
        let settings = self.component.settings.iter();
        let mut here = settings.filter_map(|(key, setting)| Some((key.strip_prefix(&self.prefix)?, setting)));
        // One edit per four letters: `bind` and `kind` may both be meant.
        here.find(|(key, _)| !key.contains('.') && (1..=name.len() / 4).contains(&distance(key, name)))
    }
    /// The value if it is set. Outer `None` only after a complaint.
    pub fn get_opt<T: PropertyValue>(&mut self, property: &Property<T>) -> Option<Option<T>> {
        match self.raw(property.name()) {
            Some(setting) => self.read(property.name(), setting, property.shown_example()).map(Some),
            None => Some(None),
        }
    }
    /// All settings of a family: the part of the key behind the prefix, and the value. Bad ones are
    /// complained about and left out.
    pub fn family<T: PropertyValue>(&mut self, property: &Property<T>) -> Vec<(String, T)> {
        let prefix = format!("{}{}", self.prefix, property.name());
        let component = self.component;
        let members = component.settings.iter().filter_map(|(k, v)| Some((k.strip_prefix(&prefix)?, v)));
        members
            .filter_map(|(rest, setting)| {
                Some((
                    rest.to_owned(),
                    self.read(&format!("{}{rest}", property.name()), setting, property.shown_example())?,
                ))
            })
            .collect()
    }
    fn read<T: PropertyValue>(&mut self, key: &str, setting: &Setting, example: &str) -> Option<T> {
        let hint = || {
            match setting.value.contains("${") {
            true => Some(
                "the reference in it stands for nothing; name a config filter, or a variable with ${env:NAME}".to_owned(),
            ),
            false => (!example.is_empty()).then(|| format!("for example: {} = {example}", self.full_key(key))),
        }
        };
        match T::parse(&setting.value) {
            Ok(value) => {
                if let Some(caution) = T::caution(&setting.value) {
                    let hint = hint();
                    self.warning(key, caution, hint);
                }
                Some(value)
            }
            Err(problem) => {
                let hint = hint();
                self.error(key, problem, hint);
                None
            }
        }
    }
    /// Takes over the complaints of a context made by hand.
    pub fn adopt(&mut self, diagnostics: Vec<Diagnostic>) {
        self.diagnostics.extend(diagnostics);
    }
    /// Complains about a property's value.
    pub fn error(&mut self, key: &str, message: impl Into<String>, hint: Option<String>) {
        let diagnostic = Diagnostic::error(self.full_key(key), message);
        self.complain(key, diagnostic, hint);
    }
    /// Warns about a property's value.
    pub fn warning(&mut self, key: &str, message: impl Into<String>, hint: Option<String>) {
        let diagnostic = Diagnostic::warning(self.full_key(key), message);
        self.complain(key, diagnostic, hint);
    }
    fn complain(&mut self, key: &str, mut diagnostic: Diagnostic, hint: Option<String>) {
        match self.raw(key) {
            Some(setting) => {
                diagnostic.value = Some(setting.shown().to_owned());
                diagnostic.location = Some(setting.location.clone());
            }
            None => diagnostic.location = self.component.listed.clone(),
        }
        diagnostic.hint = hint;
        self.diagnostics.push(diagnostic);
    }
}
