"""Tells how many bytes a component's weights take once loaded, from the headers of its files.

Files may be away for a while, with the mount that they are on: what cannot be told in full is refused, for a size that
is too small would be believed for as long as the weights stay.
"""

from math import prod
from pathlib import Path

from lego_serve.errors import CheckpointError
from lego_serve.models.derived.origin import read_header
from lego_serve.models.dtypes import resolve_dtype
from lego_serve.models.model_files import model_folder, read_json, setting
from lego_serve.models.registry import ModelSpec

COMPONENTS = {  # the folders that each node reads weights from
    "backbone": ("transformer",),
    "text_encoder": ("text_encoder", "text_encoder_2", "text_encoder_3"),
    "vae": ("vae",),
}


T5 = "text_encoder_3"  # the one that a model may lack, or be served without


def weights_bytes(spec: ModelSpec, component: str) -> int:
    """Return the bytes of a node's weights in the dtype they are loaded in.

    Raises CheckpointError where a folder has none, or lacks one of the files that its index names.
    """
    names = COMPONENTS[component.partition("-")[0]]  # a backbone may be that of a tier
    folder = model_folder(spec, *names)
    if T5 in names and not _has_t5(spec, folder):
        names = tuple(name for name in names if name != T5)
    return sum(_bytes_in(spec, folder / name) for name in names)


def controlnet_bytes(spec: ModelSpec) -> int:
    """Return the bytes of a ControlNet's weights likewise."""
    return _bytes_in(spec, model_folder(spec, ""))


def _has_t5(spec: ModelSpec, folder: Path) -> bool:
    """Whether a model is served with its third text encoder; a family that has none needs no list of its parts."""
    file = folder / "model_index.json"
    index = read_json(spec, file) if file.is_file() else {}
    return spec.max_sequence_length > 0 and (index.get(T5) or [None])[0] is not None


def _bytes_in(spec: ModelSpec, folder: Path) -> int:
    """Return what the weights in a folder take.  Raises CheckpointError."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        whole = folder / index.name.removesuffix(".index.json")
        files = setting(spec, index, "weight_map", dict).values()
        missing = sorted({str(file) for file in files if not (folder / str(file)).is_file()})
        if missing and not whole.is_file():
            raise CheckpointError(f"model {spec.name}: {folder} lacks {missing[0]}, which {index.name} names")
    numbers = sum(_numbers(spec, file) for file in sorted(folder.glob("*.safetensors")))
    if numbers == 0:
        raise CheckpointError(f"model {spec.name}: {folder} holds no .safetensors file with weights; is it mounted?")
    return numbers * int(resolve_dtype(spec).itemsize)


def _numbers(spec: ModelSpec, file: Path) -> int:
    """Return how many numbers a file's tensors hold."""
    try:
        return sum(prod(entry["shape"]) for name, entry in read_header(file).items() if name != "__metadata__")
    except ValueError as error:
        raise CheckpointError(f"model {spec.name}: {error}") from None
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"model {spec.name}: {file} is damaged or incomplete: {error}") from None
