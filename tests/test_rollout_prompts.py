"""Prompts: rendered as the tokenizer's template says, and refused where nothing could be trained on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spo.config import Config
from spo.errors import ConfigError
from spo.problems import Problem, ProblemTest
from spo.rollout.fake import END_TOKEN, FakeCodec
from spo.rollout.parts import _choose_engine
from spo.rollout.prompts import ModelCodec, prompt_text
from spo.tiny.tokenizer import make_tokenizer

PROBLEM = Problem("tiny/1", "tiny", "mul 3 then max 7", (ProblemTest("1", "7"),))
PROGRAM = "x = int(input())\nx *= 3\nprint(max(x, 7))"


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    make_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_a_chat_template_makes_the_statement_the_users_message(tiny_folder: Path) -> None:
    codec = ModelCodec(tiny_folder, "f00")
    tokenizer = make_tokenizer()
    assert tokenizer.decode(codec.encode_prompt(PROBLEM)) == "<|problem|>mul 3 then max 7<|program|>"
    assert codec.tokenizer_fingerprint == "f00"
    assert codec.end_tokens == (tokenizer.eos_token_id,)


def test_without_a_chat_template_the_statement_is_the_prompt(tiny_folder: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    plain = tiny_folder / "plain"
    tokenizer.save_pretrained(plain)
    codec = ModelCodec(plain, "")
    assert tokenizer.decode(codec.encode_prompt(PROBLEM)) == "mul 3 then max 7"
    assert codec.prompt_template.startswith("statement-")
    assert ModelCodec(tiny_folder, "").prompt_template.startswith("chat-")


def test_a_response_is_read_without_its_end_token(tiny_folder: Path) -> None:
    codec = ModelCodec(tiny_folder, "")
    tokens = make_tokenizer()(PROGRAM)["input_ids"]
    assert codec.decode_response([*tokens, *codec.end_tokens]) == PROGRAM


def test_end_tokens_of_the_models_generation_settings_count_too(tiny_folder: Path) -> None:
    (tiny_folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert ModelCodec(tiny_folder, "").end_tokens == (make_tokenizer().eos_token_id, 7, 9)


def test_a_folder_without_a_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path: .*no tokenizer"):
        ModelCodec(tmp_path, "")


def test_starter_code_is_part_of_the_prompt() -> None:
    problem = Problem("a/b", "a", "Write f.", PROBLEM.tests, starter_code="def f(x):")
    assert prompt_text(problem) == "Write f.\n\nStart from this code:\n\n```python\ndef f(x):\n```"


def test_the_fake_codec_reads_what_it_wrote() -> None:
    codec = FakeCodec()
    tokens = codec.encode_prompt(Problem("a/b", "a", "Größe?", PROBLEM.tests))
    assert codec.decode_response([*tokens, END_TOKEN]) == "Größe?"


@pytest.mark.parametrize("module", ["worker", "parts", "fake", "threaded", "__main__"])
def test_the_worker_imports_neither_torch_nor_transformers(module: str) -> None:
    program = (
        f"import sys, spo.rollout.{module}\n"
        "sys.exit(str({'torch', 'transformers', 'vllm', 'spo.trainer', 'spo.orchestrator'} & sys.modules.keys() or ''))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == ""


def test_an_engine_whose_libraries_are_not_installed_is_refused_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "spo.rollout.transformers", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=r"workers\.engine: .*pip install 'spo-rl\[train\]'"):
        _choose_engine(Config(), "anywhere")


def test_an_instruction_follows_the_statement_and_names_another_template(tiny_folder: Path) -> None:
    problem = Problem("p", "test", "add 2", (ProblemTest("1\n", "3\n"),))
    assert prompt_text(problem, "Answer in Python.") == "add 2\n\nAnswer in Python."
    plain, told = ModelCodec(tiny_folder, ""), ModelCodec(tiny_folder, "", "then add 3")
    assert plain.prompt_template != told.prompt_template
    assert len(told.encode_prompt(problem)) > len(plain.encode_prompt(problem))
