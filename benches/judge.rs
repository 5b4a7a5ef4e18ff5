//! Short tests a second on one worker, beside a bare `python3 -I -S` for each test; and outputs compared a second.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use spo_core::Interrupt;
use spo_core::judge::{Checker, Judge, JudgeConfig, Limits, Runtime, Submission, TestCase, Verdict};
use spo_core::sandbox::find_interpreter;

const SOURCE: &str = "n = int(input())\nprint(sum(i * i for i in range(n)))\n";
const NUM_TESTS: usize = 10;

fn submission(num_tests: usize) -> Submission {
    let test = |n: usize| TestCase {
        input: format!("{n}\n").into_bytes().into(),
        output: format!("{}\n", (0..n).map(|i| i * i).sum::<usize>()).into_bytes().into(),
    };
    Submission {
        source: SOURCE.as_bytes().into(),
        runtime: Runtime::WarmPython,
        tests: (0..num_tests).map(test).collect(),
        function: None,
        checker: Checker::TOKENS,
        limits: Limits::default(),
        stop_on_first_failure: true,
    }
}

fn plain_exec(interpreter: &Path, test: &TestCase) -> bool {
    let mut child = Command::new(interpreter)
        .args(["-I", "-S", "-c", SOURCE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("an interpreter");
    child.stdin.take().expect("a pipe").write_all(&test.input).expect("a reader");
    child.wait_with_output().expect("its end").stdout == *test.output
}

fn short_tests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("judge/short_tests");
    group.throughput(Throughput::Elements(NUM_TESTS as u64));
    group.sample_size(20).measurement_time(Duration::from_secs(5));
    let judge = Judge::new(&JudgeConfig { num_workers: 1, ..JudgeConfig::default() }).expect("a judge");
    // As many tests either way: the first of a submission runs in a process that compiles, the others in a template's.
    for (name, num_submissions) in [("ten_tests", 1), ("one_test", NUM_TESTS)] {
        let submission = submission(NUM_TESTS / num_submissions);
        group.bench_function(format!("{name}/{}", judge.isolation_tier()), |bencher| {
            bencher.iter(|| {
                for _ in 0..num_submissions {
                    let judgement = judge.judge(submission.clone(), Interrupt::never()).expect("a judgement");
                    assert_eq!(judgement.verdict, Verdict::Accepted);
                }
            });
        });
    }
    let interpreter = find_interpreter(Path::new("python3")).expect("an interpreter");
    let submission = submission(NUM_TESTS);
    group.bench_function("plain_exec", |bencher| {
        bencher.iter(|| assert!(submission.tests.iter().all(|test| plain_exec(&interpreter, test))));
    });
    group.finish();
}

const COMPARED_BYTES: usize = 64 << 20;

/// CPU time of this thread, so that other processes do not count.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.try_into().expect("a time since the thread's start")
}

/// Lines of numbers, until there are enough bytes.
fn lines(line: impl Fn(u32) -> String) -> Vec<u8> {
    let mut text = Vec::with_capacity(COMPARED_BYTES + 64);
    for number in 1234.. {
        text.extend_from_slice(line(number).as_bytes());
        if text.len() >= COMPARED_BYTES {
            break;
        }
    }
    text
}

/// A checker, what is compared, the expected output, and one that is right.
type Case<'a> = (&'a str, &'a str, &'a Arc<[u8]>, &'a [u8]);

/// Outputs of 64 MB as they come from a pipe: as most right ones are, byte for byte as expected, and then otherwise right.
fn comparing(criterion: &mut Criterion) {
    let plain = |number: u32| format!("{number} {}\n", number.wrapping_mul(2_654_435_761));
    let expected: Arc<[u8]> = lines(plain).into();
    let reversed: Vec<u8> = expected.split_inclusive(|byte| *byte == b'\n').rev().flatten().copied().collect();
    let spaced: Vec<u8> =
        expected.iter().flat_map(|byte| [*byte, b' '].into_iter().take(if *byte == b'\n' { 2 } else { 1 })).collect();
    let trailing: Vec<u8> =
        expected.iter().flat_map(|byte| [b' ', *byte].into_iter().skip(usize::from(*byte != b'\n'))).collect();
    let real = |number: u32| f64::from(number) / 7.0;
    let reals: Arc<[u8]> = lines(|number| format!("{:.9}\n", real(number))).into();
    let rounded = lines(|number| format!("{:.8}0\n", real(number)));
    let words: Arc<[u8]> = lines(|number| format!("case number {number} yes\n")).into();
    let upper = words.to_ascii_uppercase();
    let list = |text: &[u8], blank: &str| -> Vec<u8> {
        let items: Vec<_> = String::from_utf8_lossy(text).split_ascii_whitespace().map(String::from).collect();
        format!("[{}]", items.join(&format!(",{blank}"))).into_bytes()
    };
    let values: Arc<[u8]> = list(&expected, " ").into();
    let dense = list(&expected, "");
    let cases: [Case<'_>; 18] = [
        ("tokens", "identical", &expected, &expected),
        ("tokens", "other_blanks", &expected, &spaced),
        ("exact", "identical", &expected, &expected),
        ("lines", "identical", &expected, &expected),
        ("lines", "trailing_blanks", &expected, &trailing),
        ("unordered", "identical", &expected, &expected),
        ("unordered", "reversed", &expected, &reversed),
        ("floats", "identical", &reals, &reals),
        ("floats", "other_blanks", &expected, &spaced),
        ("floats", "other_digits", &reals, &rounded),
        ("kattis", "identical", &words, &words),
        ("kattis", "other_case", &words, &upper),
        ("kattis space_change_sensitive", "identical", &words, &words),
        ("code_contests", "identical", &reals, &reals),
        ("code_contests", "other_case", &words, &upper),
        ("code_contests", "other_digits", &reals, &rounded),
        ("call", "identical", &values, &values),
        ("call", "other_blanks", &values, &dense),
    ];
    let mut group = criterion.benchmark_group("judge/comparing");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for (name, what, expected, output) in cases {
        let checker: Checker = name.parse().expect("a checker");
        let compare = || {
            let mut comparison = checker.compare(expected.clone());
            assert!(output.chunks(64 << 10).all(|chunk| comparison.feed(chunk)) && comparison.finish());
        };
        group.throughput(Throughput::Bytes(output.len() as u64));
        group.bench_function(format!("{name}/{what}"), |bencher| {
            bencher.iter_custom(|times| {
                let before = cpu_time();
                (0..times).for_each(|_| compare());
                cpu_time() - before
            });
        });
    }
    group.finish();
}

criterion_group!(benches, short_tests, comparing);
criterion_main!(benches);
