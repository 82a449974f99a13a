"""Tells how many bytes a component's weights take once loaded, from the headers of its files."""

from math import prod
from pathlib import Path

from lego_serve.errors import CheckpointError
from lego_serve.models.derived.origin import read_header
from lego_serve.models.dtypes import resolve_dtype
from lego_serve.models.model_files import model_folder
from lego_serve.models.registry import ModelSpec

COMPONENTS = {  # the folders that each node reads weights from
    "backbone": ("transformer",),
    "text_encoder": ("text_encoder", "text_encoder_2", "text_encoder_3"),
    "vae": ("vae",),
}


def weights_bytes(spec: ModelSpec, component: str) -> int:
    """Return the bytes of a node's weights in the dtype they are loaded in.  Raises CheckpointError."""
    names = COMPONENTS[component.partition("-")[0]]  # a backbone may be that of a tier
    if spec.max_sequence_length == 0:
        names = tuple(name for name in names if name != "text_encoder_3")
    folder = model_folder(spec, *names)
    numbers = sum(_numbers(spec, file) for name in names for file in sorted((folder / name).glob("*.safetensors")))
    return numbers * int(resolve_dtype(spec).itemsize)


def _numbers(spec: ModelSpec, file: Path) -> int:
    """Return how many numbers a file's tensors hold."""
    try:
        return sum(prod(entry["shape"]) for name, entry in read_header(file).items() if name != "__metadata__")
    except ValueError as error:
        raise CheckpointError(f"model {spec.name}: {error}") from None
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"model {spec.name}: {file} is damaged or incomplete: {error}") from None
