//! From facts to verdicts: precedence, for runs and for whole submissions.

use proptest::prelude::*;
use spo_core::judge::verdict::OutputState;
use spo_core::judge::{Limits, Verdict};
use spo_core::sandbox::{EndedBy, Exit, Outcome};

const ORDER: [Verdict; 9] = [
    Verdict::CompileError,
    Verdict::JudgeError,
    Verdict::SecurityViolation,
    Verdict::MemoryLimit,
    Verdict::OutputLimit,
    Verdict::TimeLimit,
    Verdict::RuntimeError,
    Verdict::WrongAnswer,
    Verdict::Accepted,
];

fn clean() -> Outcome {
    Outcome {
        exit: Exit::Code(0),
        ended_by: EndedBy::Program,
        cpu_time_s: 0.1,
        wall_time_s: 0.1,
        killed_for_memory: false,
        peak_memory_bytes: 20 << 20,
        stderr_bytes: 0,
        stderr_tail: Vec::new(),
    }
}

/// Facts that bring a verdict about, gravest first; each can be laid over any that follow it.
fn with(verdict: Verdict, mut outcome: Outcome, output: OutputState) -> (Outcome, OutputState) {
    let mut state = output;
    match verdict {
        Verdict::SecurityViolation => outcome.exit = Exit::Signal(libc::SIGSYS),
        Verdict::MemoryLimit => outcome.peak_memory_bytes = 1 << 40,
        Verdict::OutputLimit => state = OutputState::TooLong,
        Verdict::TimeLimit => outcome.ended_by = EndedBy::CpuTime,
        Verdict::RuntimeError => outcome.exit = Exit::Code(1),
        Verdict::WrongAnswer => state = OutputState::Wrong,
        _ => {}
    }
    (outcome, state)
}

#[test]
fn of_two_findings_on_a_run_the_graver_counts() {
    let findings = &ORDER[2..8];
    for (index, grave) in findings.iter().enumerate() {
        for light in &findings[index..] {
            let (outcome, state) = with(*light, clean(), OutputState::Right);
            let (outcome, state) = with(*grave, outcome, state);
            assert_eq!(Verdict::of_run(&outcome, state, &Limits::default()), *grave, "{grave:?} over {light:?}");
        }
    }
}

#[test]
fn a_clean_run_with_the_right_output_is_accepted() {
    assert_eq!(Verdict::of_run(&clean(), OutputState::Right, &Limits::default()), Verdict::Accepted);
}

#[test]
fn an_end_that_nobody_had_reason_to_ask_for_is_a_failure_of_the_judge() {
    let outcome = Outcome { ended_by: EndedBy::Request, exit: Exit::Signal(9), ..clean() };
    assert_eq!(Verdict::of_run(&outcome, OutputState::Right, &Limits::default()), Verdict::JudgeError);
}

#[test]
fn a_refused_allocation_is_a_memory_limit_only_if_it_ended_the_program() {
    let tail = b"Traceback ...\nMemoryError\n".to_vec();
    let died = Outcome { exit: Exit::Code(1), stderr_tail: tail.clone(), ..clean() };
    assert_eq!(Verdict::of_run(&died, OutputState::Wrong, &Limits::default()), Verdict::MemoryLimit);
    let survived = Outcome { stderr_tail: tail, ..clean() };
    assert_eq!(Verdict::of_run(&survived, OutputState::Right, &Limits::default()), Verdict::Accepted);
}

proptest! {
    #[test]
    fn folding_gives_the_gravest_in_any_order(picked in proptest::collection::vec(0usize..ORDER.len(), 1..20)) {
        let gravest = picked.iter().min().map(|index| ORDER[*index]);
        prop_assert_eq!(Some(Verdict::fold(picked.iter().map(|index| ORDER[*index]))), gravest);
        prop_assert_eq!(Some(Verdict::fold(picked.iter().rev().map(|index| ORDER[*index]))), gravest);
    }

    #[test]
    fn only_exit_code_zero_with_the_right_output_in_time_is_accepted(
        code in -1i32..3, signal in 0i32..65, by_signal in any::<bool>(), ended_by in 0usize..4, state in 0usize..4,
        cpu in 0.0f64..4.0,
    ) {
        let ended_by = [EndedBy::Program, EndedBy::CpuTime, EndedBy::WallTime, EndedBy::Request][ended_by];
        let state = [OutputState::Right, OutputState::Wrong, OutputState::WrongEarly, OutputState::TooLong][state];
        let exit = if by_signal { Exit::Signal(signal) } else { Exit::Code(code) };
        let outcome = Outcome { exit, ended_by, cpu_time_s: cpu, ..clean() };
        let good = exit == Exit::Code(0) && ended_by == EndedBy::Program && state == OutputState::Right && cpu <= 2.0;
        let verdict = Verdict::of_run(&outcome, state, &Limits::default());
        prop_assert_eq!(verdict == Verdict::Accepted, good);
    }

    /// Every fact, also those that do not go together: what the helper says is not trusted to be consistent.
    #[test]
    fn a_worse_fact_never_gives_a_better_verdict(
        code in 0i32..3, signal in prop::option::of(1i32..65), ended_by in 0usize..4, state in 0usize..4,
        cpu in 0.0f64..4.0, memory in 0u64..(1 << 30), stderr in 0u64..(32 << 20), out_of_memory in any::<bool>(),
        worse in 2usize..8,
    ) {
        let exit = signal.map_or(Exit::Code(code), Exit::Signal);
        let ended_by = [EndedBy::Program, EndedBy::CpuTime, EndedBy::WallTime, EndedBy::Request][ended_by];
        let state = [OutputState::Right, OutputState::Wrong, OutputState::WrongEarly, OutputState::TooLong][state];
        let stderr_tail = if out_of_memory { b"MemoryError".to_vec() } else { Vec::new() };
        let outcome = Outcome {
            exit, ended_by, cpu_time_s: cpu, peak_memory_bytes: memory, stderr_bytes: stderr, stderr_tail, ..clean()
        };
        let verdict = Verdict::of_run(&outcome, state, &Limits::default());
        prop_assert!(verdict != Verdict::CompileError);
        // A wrong output that was seen early ends the run, so what might have come later does not count.
        if state != OutputState::WrongEarly {
            let grave = ORDER[worse];
            let (outcome, state) = with(grave, outcome, state);
            let worsened = Verdict::of_run(&outcome, state, &Limits::default());
            // An end that another fact explains is no failure of the judge any more.
            prop_assert!(worsened <= grave.max(verdict) || verdict == Verdict::JudgeError, "{:?} {:?}", verdict, worsened);
            prop_assert!(worsened != Verdict::Accepted);
        }
    }
}
