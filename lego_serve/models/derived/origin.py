"""Derived models: folders that keep of a model only how its denoiser differs from another's, importable without torch.

A derived folder has one file of weights, ``difference.safetensors``.  Its metadata name the base (``builtin:NAME``, a
hub id or a folder; one that begins with a dot lies beside the derived one) and the digest of the base's denoiser, which
loading compares.  Text encoders, tokenizers, VAE and scheduler are the base's.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "difference.safetensors"
FORMAT = "1"
MAX_HEADER = 100 * 2**20  # as safetensors itself has it


@dataclass(frozen=True, slots=True)
class Origin:
    """What a difference is to: the ``path`` of a model, and the digest of its denoiser.

    ``unchanged`` weights are the base's own, and not in the file.
    """

    path: str
    weights: str
    unchanged: tuple[str, ...] = ()

    def to_metadata(self) -> dict[str, str]:
        """Return it as a file of differences says it."""
        kept = {"base": self.path, "base_weights": self.weights, "unchanged": json.dumps(self.unchanged)}
        return {"format": FORMAT} | kept


def origin_of(folder: Path) -> Origin | None:
    """Return what a folder's difference is to; None for a folder that has none.  Raises ValueError."""
    file = folder / FILE
    if not file.is_file():
        return None
    metadata = read_header(file).get("__metadata__", {})
    try:
        if metadata["format"] != FORMAT:
            raise ValueError(f"it has format {metadata['format']}, this version reads {FORMAT}")
        unchanged = tuple(map(str, json.loads(metadata["unchanged"])))
        return Origin(beside(metadata["base"], folder), metadata["base_weights"], unchanged)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} says of no base that it is a difference to: {error}") from None


def beside(path: str, folder: Path) -> str:
    """Return a model's path as it is meant in a file of a folder: relative to that where it begins with a dot."""
    return str((folder / path).resolve()) if path.startswith(".") else path


def read_header(file: Path) -> Mapping[str, Any]:
    """Return the header of a safetensors file.  Raises ValueError for a damaged one."""
    try:
        with file.open("rb") as source:
            length = int.from_bytes(source.read(8), "little")
            if length > MAX_HEADER:
                raise ValueError("its header is too long")
            header = json.loads(source.read(length))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged or incomplete: {error}") from None
    if not isinstance(header, dict):
        raise ValueError(f"{file} is damaged or incomplete: its header is no JSON object")
    return header
