//! Imports point up: every `crate::` path in `src` against the layers of `ARCHITECTURE.md`.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules that stand outside of the layers: for tests and fuzzing only.
const OUTSIDE: [&str; 3] = ["testing", "fuzzing", "lib"];

fn layers() -> HashMap<String, usize> {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let block = page.split("```layers\n").nth(1).and_then(|rest| rest.split("```").next());
    let block = block.expect("a block ```layers in ARCHITECTURE.md");
    let lines = block.lines().enumerate();
    lines.flat_map(|(rank, line)| line.split_whitespace().map(move |name| (name.to_owned(), rank))).collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// A file's text without comments and without what stands under `#[cfg(test)]`.
fn product_code(text: &str) -> String {
    let mut out = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        if code.starts_with("#[cfg(test)]") || code.starts_with("#[cfg(any(test") {
            // The item below: to the line that closes it at the same depth.
            let indent = line.len() - code.len();
            let mut first = true;
            for line in lines.by_ref() {
                let depth = line.len() - line.trim_start().len();
                let ends = line.trim_end();
                if first && ends.ends_with(';') || depth == indent && ends.ends_with('}') && !first {
                    break;
                }
                if first && ends.ends_with('}') && ends.contains('{') {
                    break;
                }
                first = false;
            }
            continue;
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// Paths behind `crate::`, braces opened: `crate::{a::b, c}` gives `a::b` and `c`.
fn crate_paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        // Not `$crate` and not a longer word.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        open(&code[at + "crate::".len()..], "", &mut found);
    }
    found
}

fn open(text: &str, before: &str, found: &mut Vec<String>) {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let path = if before.is_empty() { name.clone() } else { format!("{before}::{name}") };
    let rest = &text[name.len()..];
    if name.is_empty() && text.starts_with('{') {
        for part in parts(&text[1..]) {
            open(part.trim(), before, found);
        }
    } else if let Some(rest) = rest.strip_prefix("::") {
        open(rest, &path, found);
    } else if !name.is_empty() {
        found.push(path);
    }
}

/// The parts of `a, b::{c, d}, e}…`, up to the brace that closes it.
fn parts(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.push(&text[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

#[test]
fn imports_point_up() {
    let layers = layers();
    let src = root().join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = BTreeSet::new();
    let mut checked = 0;
    for file in &files {
        let relative = file.strip_prefix(&src).expect("below src");
        let words: Vec<String> = relative
            .components()
            .map(|c| c.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned())
            .filter(|w| w != "mod")
            .collect();
        let Some(module) = words.first().filter(|m| !["main", "bin"].contains(&m.as_str())) else { continue };
        if OUTSIDE.contains(&module.as_str()) || words.last().is_some_and(|w| w == "tests") {
            continue;
        }
        let Some(own) = layers.get(module) else {
            wrong.insert(format!("{}: {module} is in no layer of ARCHITECTURE.md", relative.display()));
            continue;
        };
        let text = fs::read_to_string(file).expect("a source file");
        for path in crate_paths(&product_code(&text)) {
            let mut used = path.split("::");
            let Some(other) = used.next().filter(|o| layers.contains_key(*o)) else { continue };
            checked += 1;
            let rank = layers[other];
            if other != module && rank > *own {
                wrong.insert(format!("{} uses {path}, which is below it", relative.display()));
            }
            // Siblings that are components do not know each other; what they share is in their parent.
            if other == module
                && ["source", "sink", "interceptor", "selector", "sink_processor"].contains(&other)
                && let (Some(sibling), Some(this)) = (used.next(), words.get(1))
                && sibling != this
                && is_component(&src.join(module), sibling)
                && is_component(&src.join(module), this)
            {
                wrong.insert(format!("{} uses its sibling {path}", relative.display()));
            }
        }
    }
    assert!(checked > 200, "only {checked} imports found: the reader of this test is broken");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A file that stands in the registry.
fn is_component(dir: &Path, name: &str) -> bool {
    let file = dir.join(format!("{name}.rs"));
    let module = dir.join(name).join("mod.rs");
    let text = fs::read_to_string(file).or_else(|_| fs::read_to_string(module));
    text.is_ok_and(|t| t.contains("pub const ENTRY"))
}

#[test]
fn the_reader_of_imports_reads() {
    let code = "use crate::{a::b, c::{d, e::f}, g};\nlet x = crate::h::i(1); $crate::no!();";
    assert_eq!(crate_paths(code), ["a::b", "c::d", "c::e::f", "g", "h::i"]);
    let text = "use crate::a;\n#[cfg(test)]\nmod tests {\n    use crate::b;\n}\n// crate::c\nuse crate::d;\n";
    assert_eq!(product_code(text), "use crate::a;\nuse crate::d;\n");
}
