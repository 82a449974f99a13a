"""Reads and writes which layers of a model multiply rows in 2:4, with their residuals and the digest of its weights."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from lego_serve.errors import CheckpointError
from lego_serve.models.derived.bound_tensors import TensorFormat
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.linear_kinds.sparse24_rows import Residual, use_sparse24_rows
from lego_serve.models.registry import ModelSpec
from lego_serve.models.tier_files import local_folder
from lego_serve.models.weights_digest import denoiser_digest

FILE = "sparse24.safetensors"
FORMAT = TensorFormat("layers in 2:4", "1")


def write_sparse24(residuals: Mapping[str, Residual], weights: str, file: Path) -> None:
    """Write the residuals of layers, by name, that were found for weights of a digest, all at once.  Raises OSError."""
    tensors = {f"{layer}.{part}": getattr(of, part) for layer, of in residuals.items() for part in ("a", "b")}
    FORMAT.write(tensors, weights, file)


def read_sparse24(file: Path, weights: str) -> dict[str, Residual]:
    """Return the residuals of a file by layer.  Raises ValueError where it cannot be read or is for other weights."""
    tensors, _ = FORMAT.read(file, weights)
    layers = sorted({name.rpartition(".")[0] for name in tensors})
    try:
        return {layer: Residual(tensors[f"{layer}.a"], tensors[f"{layer}.b"]) for layer in layers}
    except KeyError as error:
        raise ValueError(f"{file} cannot be read as layers in 2:4: it has no {error}") from None


def load_sparse24(spec: ModelSpec, backbone: Backbone) -> None:
    """Have the layers of the file beside a model's weights multiply rows in 2:4.  Raises CheckpointError."""
    folder, file = _found(spec)
    try:
        residuals = read_sparse24(file, denoiser_digest(folder))
    except ValueError as error:
        raise CheckpointError(f"model {spec.name}: its layers in 2:4 cannot be had: {error}") from None
    use_sparse24_rows(backbone, spec.name, residuals)


def sparse24_digest(spec: ModelSpec) -> str:
    """Return what tells the file beside a model's weights from others, 16 digits.  Raises CheckpointError."""
    return sha256(_found(spec)[1].read_bytes()).hexdigest()[:16]


def _found(spec: ModelSpec) -> tuple[Path, Path]:
    """Return a model's folder and the file in it.  Raises CheckpointError where there is none."""
    folder = local_folder(spec.path)
    if folder is None or not (file := folder / FILE).is_file():
        where = f"{FILE}, which does not lie beside its weights: `lego-serve tune sparse24` makes one"
        raise CheckpointError(f"model {spec.name}: `linear: sparse24` needs {where}")
    return folder, file
