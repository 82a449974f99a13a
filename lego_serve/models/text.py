"""Encodes prompts exactly as the SD3 and FLUX pipelines do.

Prompts are encoded one by one unless a larger batch is measured to give the same bits, faster.
"""

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from lego_serve.errors import RequestError
from lego_serve.models.lora.adapter import Uses
from lego_serve.models.ragged.conditioning import Conditioning
from lego_serve.models.ragged.lora import LoraLayers


class PromptTokenizer:
    """A tokenizer that several threads may call: a fast one keeps its padding and truncation as state."""

    def __init__(self, tokenizer: Any) -> None:
        self.window = int(tokenizer.model_max_length)
        self._tokenizer = tokenizer
        self._busy = threading.Lock()

    def count(self, prompt: str, limit: int) -> int:
        """Return how many tokens a prompt has.  Raises RequestError for more than ``limit``."""
        with self._busy:
            used = len(self._tokenizer(prompt).input_ids)
        if used > limit:
            raise RequestError(
                f"`prompt` has {used} tokens; this model reads at most {limit}. Shorten it.",
                param="prompt",
                code="prompt_too_long",
            )
        return used

    def ids(self, prompts: Sequence[str], length: int, device: torch.device) -> torch.Tensor:
        """Token ids, every prompt cut or padded to ``length``."""
        with self._busy:
            padded = self._tokenizer(
                list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
        ids: torch.Tensor = padded.input_ids
        return ids.to(device)


def text_parts(adapters: Uses) -> Uses:
    """Return the text-encoder parts of adapters; adapters without one are left out."""
    parts = ((adapter.part("text_encoder", "text_encoder_2"), scale) for adapter, scale in adapters)
    return tuple((part, scale) for part, scale in parts if part.pairs)


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
        self._clips, self._tokenizers = tuple(clips), tuple(PromptTokenizer(t) for t in tokenizers)
        self._t5, self._t5_tokenizer = t5, PromptTokenizer(t5_tokenizer) if t5 is not None else None
        self._width, self._max_sequence_length = width, max_sequence_length
        names = ("text_encoder", "text_encoder_2")
        self.adapters = LoraLayers.of_modules(dict(zip(names, self._clips, strict=False)))
        self._computing = threading.Lock()  # weights change with the adapters

    def count(self, prompt: str) -> int:
        """Return how many tokens a prompt has.

        Raises RequestError for more than the model reads: nothing is cut off silently.
        """
        # With T5 nothing is lost: it reads what CLIP's window cuts off, and the pipeline truncates CLIP's copy alone.
        if self._t5_tokenizer is None:
            return self._tokenizers[0].count(prompt, self._tokenizers[0].window)
        return self._t5_tokenizer.count(prompt, self._max_sequence_length)

    def encode(self, prompts: Sequence[str], adapters: Uses = ()) -> list[Conditioning]:
        """Encode prompts, ``max_batch`` at a time, with the parts of adapters that are for text encoders."""
        starts = range(0, len(prompts), self.max_batch)
        return [cond for at in starts for cond in self.encode_batch(prompts[at : at + self.max_batch], adapters)]

    @torch.inference_mode()
    def encode_batch(self, prompts: Sequence[str], adapters: Uses = ()) -> list[Conditioning]:
        """Encode prompts in one pass.  Raises InvalidAdapter for an adapter of other text encoders."""
        with self._computing:
            self.adapters.patch(text_parts(adapters))
            return self._encode(prompts)

    def _encode(self, prompts: Sequence[str]) -> list[Conditioning]:
        hidden, pooled = [], []
        for clip, tokenizer in zip(self._clips, self._tokenizers, strict=True):
            ids = tokenizer.ids(prompts, self._tokenizers[0].window, clip.device)
            out = clip.text_model(ids, output_hidden_states=True)
            hidden.append(out.hidden_states[-2])
            # Row by row: a product of a few rows has other bits than those of each of them alone.
            pooled.append(torch.cat([clip.text_projection(row[None]) for row in out.pooler_output]))
        tokens = torch.cat(hidden, dim=-1)
        tokens = F.pad(tokens, (0, self._width - tokens.shape[-1]))
        tokens = torch.cat([tokens, self._t5_rows(prompts, tokens)], dim=1)
        return [Conditioning(t, p) for t, p in zip(tokens, torch.cat(pooled, dim=-1), strict=True)]

    def _t5_rows(self, prompts: Sequence[str], like: torch.Tensor) -> torch.Tensor:
        if self._t5 is None or self._t5_tokenizer is None:
            return like.new_zeros(len(prompts), self._max_sequence_length, self._width)
        ids = self._t5_tokenizer.ids(prompts, self._max_sequence_length, self._t5.device)
        rows: torch.Tensor = self._t5(ids)[0]
        return rows.to(like.dtype)


class FluxTextEncoder:
    """CLIP's pooled text and T5's tokens, padded to ``max_sequence_length`` as the pipeline pads them."""

    def __init__(self, clip: Any, tokenizer: Any, t5: Any, t5_tokenizer: Any, max_sequence_length: int) -> None:
        self.max_batch = 1
        self._clip, self._tokenizer = clip, PromptTokenizer(tokenizer)
        self._t5, self._t5_tokenizer = t5, PromptTokenizer(t5_tokenizer)
        self._max_sequence_length = max_sequence_length
        self.adapters = LoraLayers.of_modules({"text_encoder": clip})
        self._computing = threading.Lock()  # weights change with the adapters

    def count(self, prompt: str) -> int:
        """Return how many tokens a prompt has.  Raises RequestError for more than T5 is given."""
        # What CLIP's window cuts off T5 still reads, as in the pipeline.
        return self._t5_tokenizer.count(prompt, self._max_sequence_length)

    def encode(self, prompts: Sequence[str], adapters: Uses = ()) -> list[Conditioning]:
        """Encode prompts, ``max_batch`` at a time, with the parts of adapters that are for CLIP."""
        starts = range(0, len(prompts), self.max_batch)
        return [cond for at in starts for cond in self.encode_batch(prompts[at : at + self.max_batch], adapters)]

    @torch.inference_mode()
    def encode_batch(self, prompts: Sequence[str], adapters: Uses = ()) -> list[Conditioning]:
        """Encode prompts in one pass.  Raises InvalidAdapter for an adapter of other text encoders."""
        with self._computing:
            self.adapters.patch(text_parts(adapters))
            return self._encode(prompts)

    def _encode(self, prompts: Sequence[str]) -> list[Conditioning]:
        pooled = self._clip(self._tokenizer.ids(prompts, self._tokenizer.window, self._clip.device)).pooler_output
        tokens = self._t5(self._t5_tokenizer.ids(prompts, self._max_sequence_length, self._t5.device))[0]
        return [Conditioning(t, p) for t, p in zip(tokens, pooled, strict=True)]
