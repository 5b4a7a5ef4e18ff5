//! The judge, from outside: verdicts on programs, as a caller sees them.

use std::sync::Arc;

use spo_core::Interrupt;
use spo_core::judge::{Checker, Judge, JudgeConfig, Judgement, Limits, Runtime, Submission, TestCase, Verdict};

fn judge() -> Judge {
    Judge::new(&JudgeConfig { num_workers: 1, ..JudgeConfig::default() }).expect("a judge")
}

fn submission(source: &str, tests: &[(&str, &str)]) -> Submission {
    let test =
        |(input, output): &(&str, &str)| TestCase { input: input.as_bytes().into(), output: output.as_bytes().into() };
    Submission {
        source: source.as_bytes().into(),
        runtime: Runtime::WarmPython,
        tests: tests.iter().map(test).collect(),
        function: None,
        checker: Checker::TOKENS,
        limits: Limits { cpu_time_s: 1.0, ..Limits::default() },
        stop_on_first_failure: true,
    }
}

fn verdict(judge: &Judge, source: &str, input: &str, output: &str) -> Arc<Judgement> {
    judge.judge(submission(source, &[(input, output)]), Interrupt::never()).expect("a judgement")
}

#[test]
fn honest_and_faulty_programs_get_their_verdicts() {
    let judge = judge();
    let cases = [
        ("print(int(input()) * 2)", Verdict::Accepted),
        ("print(int(input()) * 3)", Verdict::WrongAnswer),
        ("print(1 / 0)", Verdict::RuntimeError),
        ("print(", Verdict::CompileError),
        ("while True: pass", Verdict::TimeLimit),
        ("x = bytearray(10**9)", Verdict::MemoryLimit),
        ("while True: print('a' * 1000)", Verdict::WrongAnswer),
        ("import socket\nsocket.socket()", Verdict::SecurityViolation),
        ("import os\nos.fork()", Verdict::SecurityViolation),
        ("print(42)\nexit(3)", Verdict::RuntimeError),
    ];
    for (source, expected) in cases {
        let judgement = verdict(&judge, source, "21\n", "42\n");
        assert_eq!(judgement.verdict, expected, "{source}: {judgement:?}");
    }
}
