"""The tokenizer of the `tiny` family: one token a lexeme, spaces included in the lexeme they belong to.

Every statement and program of `spo.tiny.programs` survives encoding and decoding unchanged; other text becomes
unknown tokens. A chat of one user message renders as `<|problem|>STATEMENT<|program|>`, and a response ends with
`<|end|>`.
"""

import re
from itertools import chain
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from spo.tiny.programs import CONSTANTS, OPERATORS, VARIABLES

PAD: Final = "<|pad|>"
UNKNOWN: Final = "<|unknown|>"
PROBLEM: Final = "<|problem|>"
PROGRAM: Final = "<|program|>"
END: Final = "<|end|>"
SPECIAL: Final = (PAD, UNKNOWN, PROBLEM, PROGRAM, END)

MAX_LENGTH: Final = 128
"""Positions of the model; the longest prompt with its program takes fewer than 40."""

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    f"{PROGRAM}{{{{ message['content'] }}}}{END}"
    "{% else %}"
    f"{PROBLEM}{{{{ message['content'] }}}}"
    "{% endif %}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{PROGRAM}{{% endif %}}"
)


def lexemes() -> list[str]:
    """Returns the vocabulary without the special tokens."""
    words = [f"{name} " for name in OPERATORS]
    infix = [operator.symbol for operator in OPERATORS.values() if operator.infix]
    calls = [f"{operator.symbol}(" for operator in OPERATORS.values() if not operator.infix]
    return list(
        dict.fromkeys(
            chain(
                (" then ", *words),
                map(str, CONSTANTS),
                VARIABLES,
                (" = ", "int(input())", "\n", "print(", ", ", ")"),
                (f" {symbol} " for symbol in infix),
                (f" {symbol}= " for symbol in infix),
                calls,
            )
        )
    )


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Builds the tokenizer; `save_pretrained` writes it so that `AutoTokenizer` loads it."""
    words = lexemes()
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    longest_first = sorted(words, key=len, reverse=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(map(re.escape, longest_first))), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[PROBLEM, PROGRAM],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_LENGTH,
        padding_side="left",
    )
