//! Replays the fuzzing corpora: inputs that once broke a parser, or that reach far into it.

use std::fs;
use std::path::Path;

use millrace::fuzzing::TARGETS;

#[test]
fn no_input_of_a_corpus_panics() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (name, target) in TARGETS {
        let corpus = root.join("corpus").join(name);
        let inputs: Vec<_> = fs::read_dir(&corpus)
            .unwrap_or_else(|e| panic!("target {name} has no corpus in {}: {e}", corpus.display()))
            .flatten()
            .collect();
        assert!(!inputs.is_empty(), "the corpus of {name} is empty");
        for input in inputs {
            let bytes = fs::read(input.path()).unwrap();
            // The name is printed with a panic.
            println!("{name}: {}", input.path().display());
            target(&bytes);
        }
        let source = root.join("fuzz_targets").join(format!("{name}.rs"));
        assert!(source.is_file(), "target {name} has no {}", source.display());
        let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
        assert!(manifest.contains(&format!("name = \"{name}\"")), "target {name} is not in fuzz/Cargo.toml");
    }
}
