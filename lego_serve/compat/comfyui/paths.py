"""Names of files as ComfyUI has them: of what a prompt saves, and of what clients upload."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from lego_serve.compat.task import Refused, SavedAs

MAX_NAME = 200
MAX_COPIES = 1000
PROMPT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
SAVED = re.compile(r"(?P<stem>.*)_(?P<number>\d{5})_\.(?P<id>[A-Za-z0-9_-]{1,64})\.png", re.S)
Json = dict[str, object]


def is_plain_path(path: str) -> bool:
    """Whether a path stays below the folder it starts from, on every system, and can be shown."""
    parts = path.split("/")
    return (
        bool(path) and path.isprintable() and "\\" not in path and ":" not in path and not {"", ".", ".."} & set(parts)
    )


def saved_files(output: SavedAs, prompt_id: str, count: int) -> list[Json]:
    """Return the files of an output node, as ComfyUI lists them; each name has the prompt's id in it.

    So `job_of` needs no index to find what a client wants to view.
    """
    prefix = PurePosixPath(output.prefix)
    subfolder = "" if prefix.parent == PurePosixPath(".") else str(prefix.parent)
    names = [f"{prefix.name}_{number:05}_.{prompt_id}.png" for number in range(1, count + 1)]
    return [{"filename": name, "subfolder": subfolder, "type": output.folder} for name in names]


def job_of(filename: str) -> tuple[str, int] | None:
    """Return the prompt's id and the index of an image of it, from the name of its file; None for other files."""
    match = SAVED.fullmatch(filename)
    return (match["id"], int(match["number"]) - 1) if match and int(match["number"]) else None


def upload_name(
    filename: str, subfolder: str, digest: str, kept: Mapping[str, str], *, is_overwritten: bool = False
) -> tuple[str, str]:
    """Return the name and folder of an upload; ``kept`` has the digests of those there are, by `folder/name`.

    The same content keeps its name, other content gets a number, unless it is to overwrite.  Raises Refused.
    """
    name, folder = PurePosixPath(filename.replace("\\", "/")).name, subfolder.strip("/")
    path = f"{folder}/{name}" if folder else name
    if not name or len(path) > MAX_NAME or not is_plain_path(path):
        raise Refused(f"{path[:60]!a} is no name for an upload", "image")
    ending = PurePosixPath(name).suffix
    base = name.removesuffix(ending)
    for copy in range(MAX_COPIES):
        tried = f"{base} ({copy}){ending}" if copy else name
        place = f"{folder}/{tried}" if folder else tried
        if is_overwritten or kept.get(place, digest) == digest:
            return tried, folder
    raise Refused(f"there are {MAX_COPIES} uploads of the name {name[:60]!a}; choose another", "image")


def upload_answer(name: str, subfolder: str) -> Json:
    """Return the answer to an upload."""
    return {"name": name, "subfolder": subfolder, "type": "input"}


def input_names(kept: Sequence[str]) -> list[str]:
    """Return uploads in the order in which pickers show them."""
    return sorted(kept, key=str.casefold)
