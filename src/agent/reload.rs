//! What a reload leaves running: the parts of a plan, and which of them are the same in two plans.

use std::collections::HashSet;
use std::sync::Arc;

use super::plan::Plan;
use crate::config::ComponentSettings;

/// Parts of a plan, as indices into it.
#[derive(Debug, Default)]
pub struct Parts {
    /// Into [`Plan::sources`].
    pub sources: Vec<usize>,
    /// Into [`Plan::channels`].
    pub channels: Vec<usize>,
    /// Into [`Plan::runners`].
    pub runners: Vec<usize>,
}

impl Parts {
    /// All of them.
    pub fn all(plan: &Plan) -> Self {
        Self {
            sources: (0..plan.sources.len()).collect(),
            channels: (0..plan.channels.len()).collect(),
            runners: (0..plan.runners.len()).collect(),
        }
    }
    /// How many they are.
    pub fn len(&self) -> usize {
        self.sources.len() + self.channels.len() + self.runners.len()
    }
}

/// Names of components that go on through a reload.
#[derive(Debug, Default)]
pub struct Kept {
    sources: HashSet<Arc<str>>,
    channels: HashSet<Arc<str>>,
    runners: HashSet<Arc<str>>,
}

impl Kept {
    /// Everything else of a plan.
    pub fn rest_of(&self, plan: &Plan) -> Parts {
        let rest = |count: usize, kept: &dyn Fn(usize) -> bool| (0..count).filter(|i| !kept(*i)).collect();
        Parts {
            sources: rest(plan.sources.len(), &|i| self.sources.contains(&plan.sources[i].name)),
            channels: rest(plan.channels.len(), &|i| self.channels.contains(&plan.channels[i].name)),
            runners: rest(plan.runners.len(), &|i| self.runners.contains(&plan.runners[i].name)),
        }
    }
}

/// Two components are the same if their settings are, wherever in the file they stand.
fn same(a: &ComponentSettings, b: &ComponentSettings) -> bool {
    let plain = |s: &ComponentSettings| -> Vec<(String, String)> {
        s.settings.iter().map(|(k, v)| (k.clone(), v.value.clone())).collect()
    };
    plain(a) == plain(b)
}

/// Finds what goes on, and moves its parsed config and counters from the old plan to the new one.
pub fn keep_unchanged(old: &Plan, new: &mut Plan) -> Kept {
    let mut kept = Kept::default();
    for channel in &mut new.channels {
        if let Some(before) =
            old.channels.iter().find(|c| same(&c.settings, &channel.settings) && c.name == channel.name)
        {
            channel.config = before.config.clone();
            channel.counters = before.counters.clone();
            kept.channels.insert(channel.name.clone());
        }
    }
    let channel_names: Vec<Arc<str>> = new.channels.iter().map(|c| c.name.clone()).collect();
    for source in &mut new.sources {
        let behind_kept = source.channels.iter().all(|c| kept.channels.contains(&channel_names[*c]));
        let before =
            old.sources.iter().find(|s| s.name == source.name && same(&s.settings, &source.settings));
        if let (Some(before), true) = (before, behind_kept) {
            source.config = before.config.clone();
            source.counters = before.counters.clone();
            kept.sources.insert(source.name.clone());
        }
    }
    for runner in &mut new.runners {
        let behind_kept = runner.sinks.iter().all(|s| kept.channels.contains(&channel_names[s.channel]));
        let before = old.runners.iter().find(|r| {
            let same_group = match (&r.group, &runner.group) {
                (Some(a), Some(b)) => same(a, b),
                (None, None) => true,
                _ => false,
            };
            let same_sinks = r.sinks.len() == runner.sinks.len()
                && r.sinks
                    .iter()
                    .zip(&runner.sinks)
                    .all(|(a, b)| a.name == b.name && same(&a.settings, &b.settings));
            r.name == runner.name && same_group && same_sinks
        });
        if let (Some(before), true) = (before, behind_kept) {
            for (sink, before) in runner.sinks.iter_mut().zip(&before.sinks) {
                sink.config = before.config.clone();
                sink.counters = before.counters.clone();
            }
            kept.runners.insert(runner.name.clone());
        }
    }
    kept
}
