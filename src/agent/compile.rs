//! Compiles a configuration into a plan: every component parsed, every name resolved, all complaints
//! collected. Pure; nothing is opened.

use std::sync::Arc;

use super::check;
use super::plan::{
    CHANNEL, CHANNELS, INTERCEPTORS, LANES, LaneCount, PROCESSOR_TYPE, Plan, PlannedChannel, PlannedRunner,
    PlannedSink, PlannedSource, SELECTOR_TYPE, SINKS, TYPE, find,
};
use crate::channel::ChannelEntry;
use crate::config::model::AgentConfig;
use crate::config::nearest::nearest;
use crate::config::{ComponentSettings, Diagnostic, Kind, ParseContext, Positive, PropertySpec, Words};
use crate::interceptor::InterceptorConfig;
use crate::registry;
use crate::selector::SelectorConfig;
use crate::sink::{Lanes, SinkEntry};
use crate::sink_processor::ProcessorConfig;
use crate::source::SourceEntry;

/// Most lanes of one sink: far above any machine's cores.
const LANES_MAX: usize = 1024;

/// Compiles a configuration. `None` if there were errors; warnings may stand beside a plan.
pub fn compile(config: &AgentConfig, diagnostics: &mut Vec<Diagnostic>) -> Option<Plan> {
    let said = diagnostics.len();
    check::keys(config, diagnostics);
    let plan = assemble(config, diagnostics);
    if let Some(plan) = &plan {
        check::plan(plan, diagnostics);
    }
    config.hide_secrets(&mut diagnostics[said..]);
    plan
}

fn unknown_type<E>(
    cx: &mut ParseContext<'_>,
    kind: &str,
    text: &str,
    entries: &'static [E],
    name: impl Fn(&E) -> (&'static str, &'static str),
) {
    let names = entries.iter().map(|e| match name(e) {
        ("", class) => class,
        (alias, _) => alias,
    });
    let names: Vec<&str> = names.collect();
    let nearest = nearest(text, names.iter().copied());
    let hint = match nearest {
        Some(near) => format!("did you mean {} = {near} ?", cx.full_key("type")),
        None => format!("one of: {}", names.join(", ")),
    };
    cx.error("type", format!("unknown {kind} type"), Some(hint));
}

fn assemble(config: &AgentConfig, diagnostics: &mut Vec<Diagnostic>) -> Option<Plan> {
    let channels: Vec<Option<PlannedChannel>> =
        config.channels.iter().map(|c| channel(c, diagnostics)).collect();
    let channel_names: Vec<&str> = config.channels.iter().map(|c| c.name.as_str()).collect();
    let sources: Vec<_> = config.sources.iter().map(|s| source(s, &channel_names, diagnostics)).collect();
    let sinks: Vec<_> = config.sinks.iter().map(|s| (s, sink(s, &channel_names, diagnostics))).collect();

    let mut free: Vec<(&ComponentSettings, Option<PlannedSink>)> = sinks;
    let mut runners: Vec<Option<PlannedRunner>> = Vec::new();
    let names: Vec<&str> = config.sinks.iter().map(|s| s.name.as_str()).collect();
    for (index, group) in config.sink_groups.iter().enumerate() {
        let earlier = config.sink_groups.get(..index).unwrap_or_default();
        runners.push(sink_group(group, earlier, &names, &mut free, diagnostics));
    }
    for (settings, sink) in free {
        runners.push(sink.and_then(|sink| single(settings, sink, diagnostics)));
    }
    Some(Plan {
        agent: config.name.as_str().into(),
        sources: sources.into_iter().collect::<Option<_>>()?,
        channels: channels.into_iter().collect::<Option<_>>()?,
        runners: runners.into_iter().collect::<Option<_>>()?,
    })
}

fn channel(settings: &ComponentSettings, diagnostics: &mut Vec<Diagnostic>) -> Option<PlannedChannel> {
    let mut cx = ParseContext::new(settings, diagnostics);
    let text = cx.get(&TYPE)?;
    let name = |e: &ChannelEntry| (e.name, e.class);
    let Some(entry) = find(registry::CHANNELS, name, &text) else {
        unknown_type(&mut cx, "channel", &text, registry::CHANNELS, name);
        return None;
    };
    let config = (entry.parse)(&mut cx)?;
    Some(PlannedChannel {
        name: settings.name.as_str().into(),
        settings: settings.clone(),
        entry,
        config,
        counters: Arc::default(),
    })
}

fn channel_index(cx: &mut ParseContext<'_>, key: &str, name: &str, channels: &[&str]) -> Option<usize> {
    let index = channels.iter().position(|c| *c == name);
    if index.is_none() {
        let near = nearest(name, channels.iter().copied());
        let hint = match near.or(channels.first().copied()) {
            Some(near) => format!("did you mean {near}? {} = {near}", cx.full_key(key)),
            None => format!("add: {}.channels = {name}", cx.agent()),
        };
        cx.error(key, format!("there is no channel {name:?} in {}.channels", cx.agent()), Some(hint));
    }
    index
}

fn source(
    settings: &ComponentSettings,
    channels: &[&str],
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<PlannedSource> {
    let mut cx = ParseContext::new(settings, diagnostics);
    let text = cx.get(&TYPE);
    let names = cx.get(&CHANNELS);
    let indices = names.as_ref().and_then(|Words(names)| {
        let found: Vec<_> =
            names.iter().map(|n| channel_index(&mut cx, CHANNELS.name(), n, channels)).collect();
        found.into_iter().collect::<Option<Vec<_>>>()
    });
    let selector = names.as_ref().and_then(|Words(names)| selector(&mut cx, names));
    let interceptors = interceptors(&mut cx);
    let text = text?;
    let name = |e: &SourceEntry| (e.name, e.class);
    let Some(entry) = find(registry::SOURCES, name, &text) else {
        unknown_type(&mut cx, "source", &text, registry::SOURCES, name);
        return None;
    };
    let config = (entry.parse)(&mut cx);
    Some(PlannedSource {
        name: settings.name.as_str().into(),
        settings: settings.clone(),
        entry,
        config: config?,
        selector: selector?,
        interceptors: interceptors?,
        channels: indices?,
        counters: Arc::default(),
    })
}

fn selector(cx: &mut ParseContext<'_>, channels: &[String]) -> Option<Arc<dyn SelectorConfig>> {
    let mut cx = cx.below("selector.");
    let text = cx.get(&SELECTOR_TYPE)?;
    let name = |e: &crate::selector::SelectorEntry| (e.name, e.class);
    match find(registry::SELECTORS, name, &text) {
        Some(entry) => (entry.parse)(&mut cx, channels),
        None => {
            unknown_type(&mut cx, "channel selector", &text, registry::SELECTORS, name);
            None
        }
    }
}

fn interceptors(cx: &mut ParseContext<'_>) -> Option<Vec<Arc<dyn InterceptorConfig>>> {
    let Words(names) = cx.get(&INTERCEPTORS)?;
    let parsed: Vec<_> = names
        .iter()
        .map(|interceptor| {
            let mut cx = cx.below(&format!("interceptors.{interceptor}."));
            let text = cx.get(&TYPE)?;
            let name = |e: &crate::interceptor::InterceptorEntry| (e.name, e.class);
            match find(registry::INTERCEPTORS, name, &text) {
                Some(entry) => (entry.parse)(&mut cx),
                None => {
                    unknown_type(&mut cx, "interceptor", &text, registry::INTERCEPTORS, name);
                    None
                }
            }
        })
        .collect();
    parsed.into_iter().collect()
}

fn sink(
    settings: &ComponentSettings,
    channels: &[&str],
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<PlannedSink> {
    let mut cx = ParseContext::new(settings, diagnostics);
    let text = cx.get(&TYPE);
    let channel = cx.get(&CHANNEL).and_then(|n| channel_index(&mut cx, CHANNEL.name(), &n, channels));
    let text = text?;
    let name = |e: &SinkEntry| (e.name, e.class);
    let Some(entry) = find(registry::SINKS, name, &text) else {
        unknown_type(&mut cx, "sink", &text, registry::SINKS, name);
        return None;
    };
    let config = (entry.parse)(&mut cx);
    Some(PlannedSink {
        name: settings.name.as_str().into(),
        settings: settings.clone(),
        entry,
        config: config?,
        channel: channel?,
        counters: Arc::default(),
    })
}

fn lanes(cx: &mut ParseContext<'_>, default: Lanes) -> Option<LaneCount> {
    match cx.get_opt(&LANES)? {
        Some(Positive(lanes)) if lanes > LANES_MAX => {
            cx.error(
                LANES.name(),
                format!("more than {LANES_MAX} lanes"),
                Some("use at most a few per core".to_owned()),
            );
            None
        }
        Some(Positive(lanes)) => Some(LaneCount::Fixed(lanes)),
        None => Some(match default {
            Lanes::One => LaneCount::Fixed(1),
            Lanes::PerShard => LaneCount::PerShard,
        }),
    }
}

fn processor(cx: &mut ParseContext<'_>, sinks: &[String]) -> Option<Arc<dyn ProcessorConfig>> {
    let mut cx = cx.below("processor.");
    let text = cx.get(&PROCESSOR_TYPE)?;
    let name = |e: &crate::sink_processor::ProcessorEntry| (e.name, e.class);
    match find(registry::SINK_PROCESSORS, name, &text) {
        Some(entry) => (entry.parse)(&mut cx, sinks),
        None => {
            unknown_type(&mut cx, "sink processor", &text, registry::SINK_PROCESSORS, name);
            None
        }
    }
}

fn single(
    settings: &ComponentSettings,
    sink: PlannedSink,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<PlannedRunner> {
    let mut cx = ParseContext::new(settings, diagnostics);
    let lanes = lanes(&mut cx, sink.entry.lanes);
    // A sink outside any group has the default processor whatever its own `processor.*` keys say.
    let plain = ComponentSettings { settings: Default::default(), ..settings.clone() };
    let processor =
        processor(&mut ParseContext::new(&plain, diagnostics), std::slice::from_ref(&settings.name));
    Some(PlannedRunner {
        name: sink.name.clone(),
        group: None,
        sinks: vec![sink],
        processor: processor?,
        lanes: lanes?,
    })
}

fn sink_group(
    settings: &ComponentSettings,
    earlier: &[ComponentSettings],
    sinks: &[&str],
    free: &mut Vec<(&ComponentSettings, Option<PlannedSink>)>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<PlannedRunner> {
    debug_assert_eq!(settings.kind, Kind::SinkGroup);
    let mut cx = ParseContext::new(settings, diagnostics);
    let Words(names) = cx.get(&SINKS)?;
    // The group itself owns what it names twice.
    let owner = |name: &str| {
        let groups = earlier.iter().chain([settings]).filter(|_| sinks.contains(&name));
        let has = |g: &&ComponentSettings| {
            g.settings.get(SINKS.name()).is_some_and(|s| s.value.split_whitespace().any(|w| w == name))
        };
        groups.into_iter().find(has).map(|g| g.name.clone())
    };
    let mut members = Vec::new();
    for name in &names {
        match free.iter().position(|(s, _)| s.name == *name) {
            Some(index) => members.push(free.remove(index).1),
            None => {
                let (message, hint) = match owner(name) {
                    Some(group) => (
                        format!("sink {name:?} is in sink group {group} already"),
                        "take it out of one of the two groups; a sink runs once".to_owned(),
                    ),
                    None => (
                        format!("the agent has no sink {name:?}"),
                        match nearest(name, sinks.iter().copied().filter(|s| !names.iter().any(|n| n == s))) {
                            Some(near) => format!("did you mean {near} ?"),
                            None => format!("list it: {}.sinks = {} {name}", settings.agent, sinks.join(" ")),
                        },
                    ),
                };
                cx.error(SINKS.name(), message, Some(hint));
                members.push(None);
            }
        }
    }
    let processor = processor(&mut cx, &names);
    let members: Vec<PlannedSink> = members.into_iter().collect::<Option<_>>()?;
    let default =
        if members.iter().all(|m| m.entry.lanes == Lanes::PerShard) { Lanes::PerShard } else { Lanes::One };
    let lanes = lanes(&mut cx, default);
    Some(PlannedRunner {
        name: settings.name.as_str().into(),
        group: Some(settings.clone()),
        sinks: members,
        processor: processor?,
        lanes: lanes?,
    })
}
