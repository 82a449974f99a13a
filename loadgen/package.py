"""Where the package ``lego_serve`` keeps what ships with it; looked up on disk, not imported."""

from importlib import util
from pathlib import Path


def shipped(*parts: str) -> Path:
    """A file or folder inside the package."""
    spec = util.find_spec("lego_serve")
    roots = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(roots[0] if roots else "lego_serve").joinpath(*parts)
