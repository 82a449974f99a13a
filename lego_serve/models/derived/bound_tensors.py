"""Tensors in a file that belong to weights of one digest: what was trained for a model, and fits no other."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save


@dataclass(frozen=True, slots=True)
class TensorFormat:
    """What such files hold, in words that follow ``cannot be read as``, and the version of how they hold it."""

    content: str
    version: str

    def write(
        self, tensors: Mapping[str, torch.Tensor], weights: str, file: Path, facts: Mapping[str, str] | None = None
    ) -> None:
        """Write tensors of any shapes for weights of a digest, in fp32, all at once.  Raises OSError."""
        beside = file.with_suffix(".new")
        plain = {name: tensor.detach().cpu().float().contiguous() for name, tensor in tensors.items()}
        beside.write_bytes(save(plain, {**(facts or {}), "format": self.version, "weights": weights}))
        beside.replace(file)

    def read(self, file: Path, weights: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Return the tensors of a file and its facts.

        Raises ValueError where it cannot be read, has another format, or is for other weights.
        """
        try:
            with safe_open(file, framework="pt") as content:
                facts = dict(content.metadata() or {})
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{file} cannot be read as {self.content}: {type(error).__name__} {error}") from None
        if facts.get("format") != self.version:
            raise ValueError(f"{file} cannot be read as {self.content}: it is not of format {self.version}")
        if facts.get("weights") != weights:
            raise ValueError(f"{file} was made for other weights; take it away, and make one again")
        return tensors, facts
