//! What must hold for every row of the registry's tables, and the page generated from them.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use millrace::config::PropertySpec;
use millrace::registry;

use crate::util::{millrace, output};

type Row = (&'static str, &'static str, &'static str, &'static [&'static dyn PropertySpec]);

fn tables() -> Vec<(&'static str, Vec<Row>)> {
    macro_rules! rows {
        ($table:expr) => {
            $table.iter().map(|e| (e.name, e.class, e.summary, e.properties)).collect()
        };
    }
    vec![
        ("source", rows!(registry::SOURCES)),
        ("channel", rows!(registry::CHANNELS)),
        ("sink", rows!(registry::SINKS)),
        ("interceptor", rows!(registry::INTERCEPTORS)),
        ("selector", rows!(registry::SELECTORS)),
        ("config filter", rows!(registry::CONFIG_FILTERS)),
        ("sink processor", rows!(registry::SINK_PROCESSORS)),
    ]
}

#[test]
fn names_are_unique_and_rows_complete() {
    for (kind, rows) in tables() {
        assert!(!rows.is_empty(), "{kind}");
        let mut seen = HashSet::new();
        for (name, class, summary, _) in rows {
            assert!(class.contains('.'), "{kind} {name}: {class} is no class name");
            assert!(summary.len() > 20 && summary.ends_with('.'), "{kind} {class}: {summary:?}");
            assert!(seen.insert(class.to_lowercase()), "{kind}: {class} twice");
            assert!(name.is_empty() || seen.insert(name.to_lowercase()), "{kind}: {name} twice");
        }
    }
}

#[test]
fn every_property_is_documented_and_every_default_is_accepted() {
    for (kind, rows) in tables() {
        for (name, class, _, properties) in rows {
            let mut seen = HashSet::new();
            for property in properties {
                let what = format!("{kind} {name} ({class}): {}", property.name());
                assert!(seen.insert(property.name()), "{what} twice");
                assert!(property.doc().len() >= 8, "{what}: {:?}", property.doc());
                assert!(!property.kind().is_empty(), "{what}");
                assert!(!property.is_family() || property.name().ends_with('.'), "{what}");
                assert!(!(property.is_required() && property.default().is_some()), "{what}");
                if let Some(default) = property.default() {
                    property.check(default).unwrap_or_else(|problem| panic!("{what} = {default}: {problem}"));
                }
            }
        }
    }
}

#[test]
fn the_page_of_properties_is_current() {
    let mut command = millrace();
    command.args(["describe", "--markdown"]);
    let (code, page, _) = output(command);
    assert_eq!(code, 0);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/PROPERTIES.md");
    let committed = fs::read_to_string(&path).unwrap_or_default();
    if committed != page {
        let fresh = std::env::temp_dir().join("PROPERTIES.md");
        fs::write(&fresh, &page).unwrap();
        panic!("conf/PROPERTIES.md is stale; type: millrace describe --markdown > conf/PROPERTIES.md");
    }
}
