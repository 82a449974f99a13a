"""Finds adapters' files in the configured folders, and tells of those that are passed over."""

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path

from lego_serve.core.adapter_files import (
    ADAPTER_ID,
    FOLDER_FILE,
    SUFFIX,
    FolderEntry,
    PassedOver,
    adapter_id_of,
    passed_over,
    plain_id,
    shown,
)
from lego_serve.core.suggest import did_you_mean
from lego_serve.models.lora.checkpoint import AdapterFile, no_adapter, read_adapter_file, refusal

MAX_FILES = 64  # of a folder in a root, that are looked at
MAX_PASSED_OVER = 1000  # that are told of


def files_of(adapter_id: str) -> tuple[str, str]:
    """Return the paths in a root that an adapter of this id may have."""
    return f"{adapter_id}{SUFFIX}", f"{adapter_id}/{FOLDER_FILE}"


def find_adapter(
    adapter_id: str,
    roots: Sequence[Path],
    others: Collection[str] = (),
    read: Callable[[str, Path], AdapterFile] = read_adapter_file,
) -> AdapterFile:
    """Read ``<root>/<adapter_id>.safetensors``, or diffusers' folder of that name, of the first root that has it.

    Raises NotFound for a malformed id and for one that no root has, suggesting the nearest, also of ``others``;
    InvalidAdapter for a file that must not be used.  A link is not followed, wherever it points.
    """
    if ADAPTER_ID.fullmatch(adapter_id) is None:
        message = "There is no adapter of that name; names are of a-z, 0-9, _ and -."
        raise no_adapter(message + _hint(adapter_id, roots), adapter_id)
    for root in roots:
        for name in files_of(adapter_id):
            if any((root / part).is_symlink() for part in (name, adapter_id)):  # a root itself may be one
                raise refusal(adapter_id, "is a link")
            if (root / name).exists():
                return read(adapter_id, root / name)
    message = did_you_mean("adapter", adapter_id, {*adapter_ids(roots), *others})
    raise no_adapter(message + _hint(adapter_id, roots), adapter_id)


def adapter_ids(roots: Iterable[Path]) -> list[str]:
    """List the ids that roots have files for, sound or not; a root that does not exist has none."""
    return sorted({name for root in roots for entry in _entries(root) if (name := adapter_id_of(entry)) is not None})


def all_passed_over(roots: Sequence[Path], registered: Iterable[str] = ()) -> list[PassedOver]:
    """List the files in roots that are no adapters though they may be meant as such, but for ``registered`` paths."""
    found: dict[str, PassedOver] = {}
    taken: dict[str, str] = {}  # by id, the path of the file that has it
    for root in roots:
        for entry in sorted(_entries(root), key=lambda entry: (entry.is_folder, entry.name)):
            for file in passed_over(entry):
                found.setdefault(file.path, file)
            if (name := adapter_id_of(entry)) is not None:
                path = files_of(name)[entry.is_folder]
                if name in taken:
                    reason = f"Another root, or another file, has an adapter {name}, which comes first."
                    found.setdefault(path, PassedOver(path, reason))
                taken.setdefault(name, path)
    used = set(registered)
    return [file for path, file in sorted(found.items()) if path not in used][:MAX_PASSED_OVER]


def _entries(root: Path) -> Iterable[FolderEntry]:
    for path in root.iterdir() if root.is_dir() else ():
        try:
            is_folder = path.is_dir()
            if not (is_folder or path.is_file() or path.is_symlink()):  # a pipe, a device
                continue
            files = tuple(sorted(islice(_files_in(path), MAX_FILES))) if is_folder and not path.is_symlink() else ()
            yield FolderEntry(path.name, path.is_symlink(), is_folder, files)
        except OSError:  # it is gone, or must not be read
            continue


def _files_in(folder: Path) -> Iterable[str]:
    if (folder / FOLDER_FILE).is_file():  # whatever else is there; nothing more is read of the folder then
        return (FOLDER_FILE,)
    return (file.name for file in folder.iterdir() if file.is_file())


def _hint(name: str, roots: Sequence[Path]) -> str:
    """Return a sentence about a file that is passed over and may be meant by a name; nothing where there is none."""
    meant = next((file for file in all_passed_over(roots) if _is_meant(name, file.path)), None)
    return "" if meant is None else f" The file {shown(meant.path)} is passed over: {meant.reason}"


def _is_meant(name: str, path: str) -> bool:
    meant = plain_id(name)
    return meant != "" and meant == plain_id(path)
