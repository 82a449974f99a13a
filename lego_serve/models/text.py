"""Prompts to conditionings exactly as SD3's pipeline makes them: two CLIPs side by side, then T5.

A prompt is encoded alone, whatever comes with it, so that its bits do not depend on neighbours.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from lego_serve.errors import RequestError
from lego_serve.models.base import Conditioning


class Sd3TextEncoder:
    """Two CLIP text encoders and, where the model has it, T5.

    Without T5 the pipeline appends ``max_sequence_length`` rows of zeros; they are part of the model.
    """

    def __init__(
        self,
        clips: Sequence[Any],
        tokenizers: Sequence[Any],
        t5: Any | None,
        t5_tokenizer: Any | None,
        width: int,
        max_sequence_length: int,
    ) -> None:
        self._clips, self._tokenizers = tuple(clips), tuple(tokenizers)
        self._t5, self._t5_tokenizer = t5, t5_tokenizer
        self._width, self._max_sequence_length = width, max_sequence_length

    def check(self, prompt: str) -> None:
        """Raise RequestError when a prompt has more tokens than the model reads (nothing is cut off silently)."""
        limit = int(self._tokenizers[0].model_max_length)
        if self._t5 is not None:
            return  # T5 reads what CLIP's window cuts off; the pipeline truncates CLIP's copy alone.
        used = len(self._tokenizers[0](prompt).input_ids)
        if used > limit:
            raise RequestError(
                f"The prompt has {used} tokens; this model reads at most {limit}. Shorten it.",
                param="prompt",
                code="prompt_too_long",
            )

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> list[Conditioning]:
        """Encode prompts, one after the other."""
        return [self._encode(prompt) for prompt in prompts]

    def _encode(self, prompt: str) -> Conditioning:
        hidden, pooled = [], []
        for clip, tokenizer in zip(self._clips, self._tokenizers, strict=True):
            said = clip(_ids(tokenizer, prompt, self._tokenizers[0].model_max_length, clip), output_hidden_states=True)
            hidden.append(said.hidden_states[-2][0])
            pooled.append(said[0][0])
        tokens = torch.cat(hidden, dim=-1)
        tokens = F.pad(tokens, (0, self._width - tokens.shape[-1]))
        return Conditioning(torch.cat([tokens, self._t5_rows(prompt, tokens)]), torch.cat(pooled))

    def _t5_rows(self, prompt: str, like: torch.Tensor) -> torch.Tensor:
        if self._t5 is None:
            return like.new_zeros(self._max_sequence_length, self._width)
        rows: torch.Tensor = self._t5(_ids(self._t5_tokenizer, prompt, self._max_sequence_length, self._t5))[0][0]
        return rows.to(like.dtype)


def _ids(tokenizer: Any, prompt: str, length: int, module: Any) -> torch.Tensor:
    ids = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    return ids.to(module.device)
