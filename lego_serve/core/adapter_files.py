"""Decides which entries of a folder are adapters by their names, and why the others are passed over.

An adapter's id is plain, as it stands in requests, logs and paths of routes.  A file of any other name is registered
under a plain one by its path, which leads from a configured root and never out of it.
"""

import re
import unicodedata
from dataclasses import dataclass

from lego_serve.errors import RequestError

ADAPTER_ID = re.compile(r"[a-z0-9_-]{1,64}")
FOLDER_FILE = "pytorch_lora_weights.safetensors"
SUFFIX = ".safetensors"
OTHER_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft", ".zip")  # of weights that are not read
MAX_PARTS = 8
MAX_PART_BYTES = 255  # what file systems allow


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """One entry of a folder of adapters; ``files`` are the names in it, if it is a folder itself."""

    name: str
    is_link: bool = False
    is_folder: bool = False
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A file that is no adapter though it may be meant as one: its path from its root on, and why."""

    path: str
    reason: str


def adapter_id_of(entry: FolderEntry) -> str | None:
    """Return the id that an entry of a root has as an adapter; None where it is none."""
    if entry.is_link or (entry.is_folder and FOLDER_FILE not in entry.files):
        return None
    name = entry.name if entry.is_folder else entry.name.removesuffix(SUFFIX)
    is_named = entry.is_folder or name != entry.name
    return name if is_named and ADAPTER_ID.fullmatch(name) else None


def passed_over(entry: FolderEntry) -> list[PassedOver]:
    """Return the files of an entry that are no adapters though they may be meant as such; images are not."""
    if adapter_id_of(entry) is not None:
        return []
    files = [f"{entry.name}/{file}" for file in entry.files] if entry.is_folder else [entry.name]
    meant = [file for file in files if file.casefold().endswith((SUFFIX, *OTHER_SUFFIXES))]
    if entry.is_folder and entry.is_link:
        return [PassedOver(shown(entry.name), "It is a link, which is not followed.")]
    return [PassedOver(shown(file), _reason(entry, file)) for file in meant]


def plain_id(path: str) -> str:
    """Return the id nearest to a file's name, ``pixel-art-v2`` for ``Pixel Art.v2``; empty where nothing is left."""
    name = re.sub(rf"{re.escape(SUFFIX)}$", "", path.removesuffix(f"/{FOLDER_FILE}").rpartition("/")[2], flags=re.I)
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9_-]+", "-", ascii_only.casefold()).strip("-")[:64]


def path_parts(path: str) -> tuple[str, ...]:
    """Return the parts of a path that is to be registered.  Raises RequestError for one that could lead anywhere else.

    Any printable name will do: spaces, dots, brackets and other alphabets are only characters to a file system.
    """
    parts = tuple(path.split("/"))
    if not path.casefold().endswith(SUFFIX):
        raise RequestError(f"`path` must end in {SUFFIX}: no other format is read.", param="path")
    if len(parts) > MAX_PARTS or any(map(is_unusable_name, parts)):
        message = (
            f"`path` must lead from one of the configured roots to a file, in up to {MAX_PARTS} names "
            f"of printable characters and {MAX_PART_BYTES} bytes, without `..`."
        )
        raise RequestError(message, param="path")
    return parts


def is_unusable_name(name: str) -> bool:
    """Return whether no path may have this name in it: it leads elsewhere, or is no printable text."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # bytes of a file system that are no UTF-8
        return True
    return name in ("", ".", "..") or size > MAX_PART_BYTES or not all(map(_is_visible, name))


def shown(path: str) -> str:
    """Return a path that is safe to repeat: what is not printable as ?."""
    return "".join(c if _is_visible(c) else "?" for c in path)


def _is_visible(character: str) -> bool:
    """Return whether a character is text: spaces of all alphabets are, and what joins the parts of an emoji."""
    return character.isprintable() or unicodedata.category(character) == "Zs" or character == "\u200d"


def _reason(entry: FolderEntry, file: str) -> str:
    name = file.rpartition("/")[2]
    if not name.casefold().endswith(SUFFIX):
        return f"It does not end in {SUFFIX}: no other format is read."
    if entry.is_link:
        return "It is a link, which is not followed."
    if any(map(is_unusable_name, file.split("/"))):
        return "Its name is not printable text, so that it cannot be registered either: rename it."
    register = f"register it by its path, under a name such as {plain_id(file) or 'my-adapter'}"
    if entry.is_folder and name != FOLDER_FILE:
        return f"It lies in a folder that diffusers did not write: {register}."
    return f"Its name is not 1 to 64 of a-z, 0-9, _ and -: {register}."
