"""What an adapter is, for those who look after many: told by its file's header alone, or in full by its weights."""

from dataclasses import dataclass
from pathlib import Path

from lego_serve.models.adapter_file import header_of, read_head
from lego_serve.models.adapter_keys import WEIGHT
from lego_serve.models.lora import Adapter


@dataclass(frozen=True, slots=True)
class Summary:
    """Bytes of the file and the largest rank in it; 0 where it has no product."""

    size_bytes: int
    rank: int


def summary_of(adapter_id: str, path: Path) -> Summary:
    """What the header of a file says; nothing of its weights is read or vouched for.

    Raises InvalidAdapter for what is no safetensors file, and NotFound.
    """
    head, size_bytes = read_head(adapter_id, path)
    _, header = header_of(adapter_id, head)
    return Summary(size_bytes, max((_rank(name, said) for name, said in header.items()), default=0))


def _rank(name: str, said: object) -> int:
    """The rank of the product whose inner half this tensor is; 0 for any other."""
    found = WEIGHT.fullmatch(name)
    shape = said.get("shape") if isinstance(said, dict) else None
    if found is None or (found["peft"] or found["kohya"] or found["old"]) not in ("A", "down"):
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or type(shape[0]) is not int:
        return 0
    return int(shape[0])


def card_of(adapter: Adapter) -> dict[str, object]:
    """A checked adapter as an operator sees it."""
    ranks = sorted({pair.rank for pair in adapter.pairs.values()})
    components = sorted({path.partition(".")[0] for path in adapter.pairs})
    return {
        "rank": ranks[-1],
        "ranks": ranks,
        "layers": len(adapter.pairs),
        "components": components,
        "sha256": adapter.sha256,
    }
