"""Prompts to conditionings, from several threads at once."""

import threading
from functools import cache
from pathlib import Path

import pytest
import torch

from lego_serve.models.loading import load_text_encoder
from lego_serve.models.ragged.backbone import TextEncoder
from lego_serve.models.ragged.conditioning import Conditioning
from lego_serve.models.registry import ModelSpec


def test_checking_a_prompt_does_not_disturb_one_that_is_being_encoded(tiny_folder: Path) -> None:
    """A node checks prompts on its event loop while its compute thread encodes; both use one tokenizer."""
    encoder = load_text_encoder(ModelSpec("lego-tiny", str(tiny_folder), max_sequence_length=0, dtype="float32"))
    alone = encoder.encode_batch(["a red circle"])[0]
    done = threading.Event()

    def check() -> None:
        while not done.is_set():
            encoder.count("a small yellow triangle above a large green square")

    checking = threading.Thread(target=check)
    checking.start()
    try:
        together = [encoder.encode_batch(["a red circle"])[0] for _ in range(100)]
    finally:
        done.set()
        checking.join()
    assert all(torch.equal(cond.tokens, alone.tokens) for cond in together)


PROMPTS = (
    "a red circle",
    "",
    "a small yellow triangle above a large green square",
    "two",
    "one " * 200,
    "a b c",
    "d",
    "e f",
)


@cache
def encoded_alone(folder: Path, dtype: str) -> tuple[TextEncoder, list[Conditioning]]:
    """An encoder, and what it makes of each prompt alone."""
    encoder = load_text_encoder(ModelSpec("lego-tiny", str(folder), max_sequence_length=0, dtype=dtype))
    return encoder, [encoder.encode_batch([prompt])[0] for prompt in PROMPTS]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", range(2, 9))
def test_prompts_encoded_together_have_the_bits_that_each_has_alone(tiny_folder: Path, dtype: str, count: int) -> None:
    """Tokens and the pooled text, wherever in the batch a prompt stands: no image depends on who else was encoded."""
    encoder, alone = encoded_alone(tiny_folder, dtype)
    for start in range(len(PROMPTS)):
        items = [(start + place) % len(PROMPTS) for place in range(count)]
        together = encoder.encode_batch([PROMPTS[item] for item in items])
        for cond, item in zip(together, items, strict=True):
            assert torch.equal(cond.tokens, alone[item].tokens), (start, item)
            assert torch.equal(cond.pooled, alone[item].pooled), (start, item)
