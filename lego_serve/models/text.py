"""Prompts to conditionings exactly as SD3's pipeline makes them: two CLIPs side by side, then T5.

Prompts are encoded one by one unless a larger batch is measured to give the same bits, faster.
"""

import threading
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
        self.max_batch = 1
        self._clips, self._tokenizers = tuple(clips), tuple(tokenizers)
        self._t5, self._t5_tokenizer = t5, t5_tokenizer
        self._width, self._max_sequence_length = width, max_sequence_length
        # A fast tokenizer keeps its padding and truncation as state: two calls at a time would mix them up.
        self._tokenizing = threading.Lock()

    def check(self, prompt: str) -> None:
        """Raise RequestError when a prompt has more tokens than the model reads (nothing is cut off silently)."""
        limit = int(self._tokenizers[0].model_max_length)
        if self._t5 is not None:
            return  # T5 reads what CLIP's window cuts off; the pipeline truncates CLIP's copy alone.
        with self._tokenizing:
            used = len(self._tokenizers[0](prompt).input_ids)
        if used > limit:
            raise RequestError(
                f"The prompt has {used} tokens; this model reads at most {limit}. Shorten it.",
                param="prompt",
                code="prompt_too_long",
            )

    def encode(self, prompts: Sequence[str]) -> list[Conditioning]:
        """Encode prompts, ``max_batch`` at a time."""
        starts = range(0, len(prompts), self.max_batch)
        return [cond for at in starts for cond in self.encode_batch(prompts[at : at + self.max_batch])]

    @torch.inference_mode()
    def encode_batch(self, prompts: Sequence[str]) -> list[Conditioning]:
        """The same in one pass."""
        hidden, pooled = [], []
        for clip, tokenizer in zip(self._clips, self._tokenizers, strict=True):
            ids = self._ids(tokenizer, prompts, self._tokenizers[0].model_max_length, clip)
            said = clip(ids, output_hidden_states=True)
            hidden.append(said.hidden_states[-2])
            pooled.append(said[0])
        tokens = torch.cat(hidden, dim=-1)
        tokens = F.pad(tokens, (0, self._width - tokens.shape[-1]))
        tokens = torch.cat([tokens, self._t5_rows(prompts, tokens)], dim=1)
        return [Conditioning(t, p) for t, p in zip(tokens, torch.cat(pooled, dim=-1), strict=True)]

    def _t5_rows(self, prompts: Sequence[str], like: torch.Tensor) -> torch.Tensor:
        if self._t5 is None:
            return like.new_zeros(len(prompts), self._max_sequence_length, self._width)
        rows: torch.Tensor = self._t5(self._ids(self._t5_tokenizer, prompts, self._max_sequence_length, self._t5))[0]
        return rows.to(like.dtype)

    def _ids(self, tokenizer: Any, prompts: Sequence[str], length: int, module: Any) -> torch.Tensor:
        with self._tokenizing:
            padded = tokenizer(
                list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
        ids: torch.Tensor = padded.input_ids.to(module.device)
        return ids
