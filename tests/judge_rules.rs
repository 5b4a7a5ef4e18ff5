//! Rules of the tree that the judge's safety rests on, checked on the sources.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "py") {
            found.push(path);
        }
    }
}

fn places_of(words: &[&str], folders: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    folders.iter().for_each(|folder| sources(&root.join(folder), &mut files));
    assert!(files.len() > 20, "the sources are elsewhere");
    let mut places = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source file");
        let name = file.strip_prefix(root).expect("a file of the tree").display().to_string();
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| code.contains(word)) && !name.starts_with("rust/sandbox/") {
                places.push(format!("{name}:{}", number + 1));
            }
        }
    }
    places
}

#[test]
fn only_the_sandbox_forks_or_starts_processes() {
    let words = ["fork(", "vfork(", "clone3", "posix_spawn", "process::Command", "Command::new"];
    assert_eq!(places_of(&words, &["rust"]), Vec::<String>::new());
    let forks = ["os.fork", "forkpty", "multiprocessing"];
    let mut places = places_of(&forks, &["rust", "python"]);
    // The floor of `spo judge bench` forks in an interpreter of its own.
    places.retain(|place| !place.starts_with("python/spo/judge_bench.py"));
    assert_eq!(places, Vec::<String>::new());
}

#[test]
fn unsafe_code_is_in_the_sandbox_or_known_for_one_of_few_reasons() {
    let places: Vec<_> = places_of(&["unsafe {", "unsafe fn", "unsafe impl"], &["rust"])
        .into_iter()
        .filter(|place| !is_for_a_known_reason(place))
        .collect();
    assert_eq!(places, Vec::<String>::new());
}

/// Mapping memory, advice about it, and calling what is compiled for AVX2.
fn is_for_a_known_reason(place: &str) -> bool {
    let (file, line) = place.rsplit_once(':').expect("file:line");
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("a source file");
    text.lines().nth(line.parse::<usize>().expect("a number") - 1).is_some_and(|line| {
        ["mmap", "madvise", "_mm_prefetch", "_avx2("].iter().any(|call| line.to_lowercase().contains(call))
    })
}
