"""Names of models, adapters and ControlNets as foreign tools write them, and ours behind them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import PurePosixPath

from lego_serve.compat.task import Refused
from lego_serve.core.suggest import COMPARED, closest, did_you_mean

MAX_NAME = 256  # characters of a name that can be meant, and is compared
EXTENSIONS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".sft", ".gguf")


@dataclass(frozen=True, slots=True)
class Names:
    """What a server has, by the names that it shows: models (with their aliases), adapters and ControlNets.

    Each maps a shown name to ours.
    """

    models: Mapping[str, str] = field(default_factory=dict)
    loras: Mapping[str, str] = field(default_factory=dict)
    controlnets: Mapping[str, str] = field(default_factory=dict)


def stem(name: str) -> str:
    """Return a name without folders, the ending of a weights file, and A1111's hash in brackets."""
    last = PurePosixPath(name.replace("\\", "/")).name.split(" [", 1)[0]
    return next((last[: -len(end)] for end in EXTENSIONS if last.lower().endswith(end)), last)


def find(name: str, known: Collection[str]) -> str | None:
    """Return the known name that a caller means: the same, or the same but for case, folder and file ending."""
    if name in known:
        return name
    if len(name) > MAX_NAME:
        return None
    wanted = stem(name).casefold()
    return next((other for other in known if _key(other) == wanted), None)


@lru_cache(maxsize=8192)
def _key(known: str) -> str:
    """Return what a known name is compared by; a caller may send hundreds to compare."""
    return stem(known).casefold()


def near(name: str, known: Collection[str]) -> str | None:
    """Return the known name nearest to a word, at a bounded cost."""
    return closest(name, islice(known, COMPARED)) if len(name) <= MAX_NAME else None


def resolve(what: str, name: str, known: Mapping[str, str], field: str) -> str:
    """Return our name for a caller's.  Raises Refused, naming the nearest there is."""
    found = find(name, known)
    if found is None:
        raise Refused(unknown(what, name, known), field)
    return known[found]


def unknown(what: str, name: str, known: Collection[str]) -> str:
    """Return the message for a name that is not known."""
    return did_you_mean(what, stem(name), known, "this server has none of them" if not known else "")
