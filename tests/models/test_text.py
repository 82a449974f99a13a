"""Prompts to conditionings, from several threads at once."""

import threading
from pathlib import Path

import torch

from lego_serve.models.loading import load_text_encoder
from lego_serve.models.registry import ModelSpec


def test_checking_a_prompt_does_not_disturb_one_that_is_being_encoded(tiny_folder: Path) -> None:
    """A node checks prompts on its event loop while its compute thread encodes; both use one tokenizer."""
    encoder = load_text_encoder(ModelSpec("lego-tiny", str(tiny_folder), max_sequence_length=0, dtype="float32"))
    alone = encoder.encode_batch(["a red circle"])[0]
    done = threading.Event()

    def check() -> None:
        while not done.is_set():
            encoder.check("a small yellow triangle above a large green square")

    checking = threading.Thread(target=check)
    checking.start()
    try:
        together = [encoder.encode_batch(["a red circle"])[0] for _ in range(100)]
    finally:
        done.set()
        checking.join()
    assert all(torch.equal(cond.tokens, alone.tokens) for cond in together)
