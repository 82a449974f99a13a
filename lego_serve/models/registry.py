"""Model specifications and families, importable without torch."""

from dataclasses import dataclass
from importlib import import_module, resources
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

BUILT_IN = "builtin:"
_FAMILIES = "lego_serve.models.families"  # found by name: nothing here depends on any of them


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model's location and how to run it; ``path`` is a folder, a hub id or ``builtin:NAME``.

    ``linear``: how the backbone's blocks multiply, ``dense``, ``int8``, ``fp8`` or ``sparse24``.
    """

    name: str
    path: str
    family: str = "sd3"
    revision: str | None = None
    dtype: str = "auto"
    device: str = "cpu"
    max_sequence_length: int = 256
    fetch: bool = False
    linear: str = "dense"


def families() -> tuple[str, ...]:
    """Return the names of the model families: one file each."""
    return tuple(sorted(file.name for file in iter_modules(import_module(_FAMILIES).__path__)))


def built_in_folder(path: str) -> Path:
    """Return the folder of ``builtin:NAME`` in this package, existing or not."""
    return Path(str(resources.files("lego_serve") / "zoo" / "weights" / path.removeprefix(BUILT_IN)))


def profile_folder(beside: Path, chosen: Path | None, own: Path | None) -> Path:
    """Return the folder of an adapter's profile: the chosen one, or beside the adapter, but never in this package.

    ``own`` has those of the package's adapters.
    """
    if chosen is None and own is not None and beside.resolve().is_relative_to(built_in_folder("").resolve()):
        return own
    return beside if chosen is None else chosen


def family_module(family: str) -> ModuleType:
    """Return the module of one of ``families()``."""
    return import_module(f"{_FAMILIES}.{family}")
