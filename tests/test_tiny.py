"""The tiny family: its problems, programs and tokenizer."""

import contextlib
import io
import random
from collections import Counter
from itertools import chain, product
from types import CodeType

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from spo.problems import Problem, extract_code, load_problems
from spo.tiny.problems import INPUTS, NUM_TESTS, PROBLEMS_PER_PAIR, load, pairs
from spo.tiny.programs import (
    CONSTANTS,
    OPERATORS,
    STYLES,
    VARIABLES,
    Step,
    confuse,
    evaluate,
    render,
    statement,
)
from spo.tiny.tokenizer import END, MAX_LENGTH, PAD, make_tokenizer

SEEDS = (0, 7)


def run(code: CodeType, text: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, {"input": lambda: text.removesuffix("\n")})
    return output.getvalue()


def passes(problem: Problem, code: str) -> bool:
    compiled = compile(code, "program", "exec")
    return all(run(compiled, test.input) == test.output for test in problem.tests)


@pytest.fixture(scope="module")
def problems() -> dict[tuple[str, int], list[Problem]]:
    return {(split, seed): load(split, seed) for split in ("train", "evaluation") for seed in SEEDS}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    directory = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory)


def test_every_right_solution_passes_and_every_confusion_fails(
    problems: dict[tuple[str, int], list[Problem]],
) -> None:
    for problem in chain.from_iterable(problems.values()):
        assert any(solution.correct for solution in problem.solutions)
        assert sum(not solution.correct for solution in problem.solutions) == 3
        for solution in problem.solutions:
            assert passes(problem, solution.code) == solution.correct, (problem.id, solution.code)


def test_the_tests_refuse_every_program_of_the_family_that_computes_something_else(
    problems: dict[tuple[str, int], list[Problem]],
) -> None:
    for problem in problems["evaluation", 0][::5]:
        words = problem.statement.replace(" then ", " ").split()
        composition = tuple(Step(name, int(k)) for name, k in zip(words[::2], words[1::2], strict=True))
        inputs = [int(test.input) for test in problem.tests]
        for others in product(OPERATORS, repeat=2):
            other = tuple(Step(name, step.constant) for name, step in zip(others, composition, strict=True))
            same_everywhere = all(evaluate(other, x) == evaluate(composition, x) for x in INPUTS)
            same_on_tests = all(evaluate(other, x) == evaluate(composition, x) for x in inputs)
            assert same_on_tests == same_everywhere, (problem.id, other)


def test_no_pair_of_operators_is_both_trained_and_held_out_at_any_seeds(
    problems: dict[tuple[str, int], list[Problem]],
) -> None:
    def operators(problem: Problem) -> tuple[str, ...]:
        return tuple(words.split()[0] for words in problem.statement.split(" then "))

    trained = {operators(problem) for seed in SEEDS for problem in problems["train", seed]}
    held_out = {operators(problem) for seed in SEEDS for problem in problems["evaluation", seed]}
    assert not trained & held_out
    assert trained | held_out == set(product(OPERATORS, repeat=2))


@pytest.mark.parametrize("split", ["train", "evaluation"])
def test_each_operator_stands_in_each_place_equally_often(split: str) -> None:
    for place in (0, 1):
        counts = Counter(pair[place] for pair in pairs(split))
        assert set(counts) == set(OPERATORS)
        assert len(set(counts.values())) == 1


def test_the_seed_decides_the_problems() -> None:
    again = load("evaluation", 3)
    assert load("evaluation", 3) == again != load("evaluation", 4)


def test_every_pair_gets_its_share_of_problems_with_distinct_tests(
    problems: dict[tuple[str, int], list[Problem]],
) -> None:
    for (split, _), loaded in problems.items():
        assert len(loaded) == PROBLEMS_PER_PAIR[split] * len(pairs(split))
        assert len({problem.id for problem in loaded}) == len(loaded)
        assert all(len({test.input for test in problem.tests}) == NUM_TESTS for problem in loaded)


def test_an_unknown_split_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'valid'.*train, evaluation"):
        load("valid", 0)


def test_the_problems_are_found_by_their_spec() -> None:
    assert load_problems(["tiny:evaluation"], seed=2) == load("evaluation", 2)


def test_partners_are_mutual_and_written_alike() -> None:
    for operator in OPERATORS.values():
        partner = OPERATORS[operator.partner]
        assert partner.partner == operator.name
        assert partner.infix == operator.infix


def test_confusion_follows_its_shares() -> None:
    composition = (Step("add", 2), Step("max", 3))
    rng = random.Random(0)
    written = Counter(confuse(composition, {"add": 0.0, "max": 0.25}, rng) for _ in range(4000))
    assert set(written) == {composition, (Step("add", 2), Step("min", 3))}
    assert written[composition] / 4000 == pytest.approx(0.75, abs=0.03)


def test_every_statement_and_program_survives_the_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    compositions = [
        tuple(Step(name, constant) for name in names)
        for names in product(OPERATORS, repeat=2)
        for constant in CONSTANTS
    ]
    writings = [*product(range(len(STYLES)), VARIABLES)]
    programs = [render(composition, *writing) for composition in compositions for writing in writings]
    texts = [*map(statement, compositions), *programs]
    encoded = tokenizer(texts)["input_ids"]
    assert all(tokenizer.unk_token_id not in tokens for tokens in encoded)
    assert tokenizer.batch_decode(encoded, skip_special_tokens=True) == texts


def test_a_response_ends_with_the_end_token_and_its_code_is_extracted_whole(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    code = render((Step("add", 2), Step("max", 3)), style=0, variable="x")
    tokens = tokenizer(code + END)["input_ids"]
    assert tokens[-1] == tokenizer.eos_token_id
    assert extract_code(tokenizer.decode(tokens, skip_special_tokens=True)) == code


def test_the_chat_template_renders_prompt_and_whole_conversation_alike(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    user = {"role": "user", "content": "mul 3 then max 7"}
    prompt = tokenizer.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template([user, {"role": "assistant", "content": "print(x)"}], tokenize=False)
    assert prompt == "<|problem|>mul 3 then max 7<|program|>"
    assert whole == prompt + "print(x)" + END


def test_every_prompt_with_its_program_fits_the_model(
    tokenizer: PreTrainedTokenizerBase, problems: dict[tuple[str, int], list[Problem]]
) -> None:
    longest = max(
        len(tokenizer(problem.statement + solution.code)["input_ids"]) + 3
        for problem in problems["train", 0]
        for solution in problem.solutions
    )
    assert longest < 40 < MAX_LENGTH


def test_unknown_text_becomes_unknown_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer("?")["input_ids"] == [tokenizer.unk_token_id]
    assert tokenizer.pad_token == PAD
