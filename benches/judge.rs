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

fn comparing(criterion: &mut Criterion) {
    let expected: Arc<[u8]> = (0..2_000_000u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    // One blank more at the start: no byte is where it is expected.
    let shifted: Vec<u8> =
        expected.iter().flat_map(|byte| if *byte == b'\n' { vec![b' ', b'\n'] } else { vec![*byte] }).collect();
    let mut group = criterion.benchmark_group("judge/comparing");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(expected.len() as u64));
    for name in ["tokens", "exact", "floats"] {
        let checker: Checker = name.parse().expect("a checker");
        group.bench_function(format!("{name}/identical"), |bencher| {
            bencher.iter(|| {
                let mut comparison = checker.compare(expected.clone());
                assert!(expected.chunks(64 << 10).all(|chunk| comparison.feed(chunk)) && comparison.finish());
            });
        });
    }
    group.bench_function("tokens/other_blanks", |bencher| {
        bencher.iter(|| {
            let mut comparison = Checker::TOKENS.compare(expected.clone());
            assert!(shifted.chunks(64 << 10).all(|chunk| comparison.feed(chunk)) && comparison.finish());
        });
    });
    group.finish();
}

criterion_group!(benches, short_tests, comparing);
criterion_main!(benches);
