"""Paths inside the package ``lego_serve``, looked up on disk without importing it."""

from importlib import util
from pathlib import Path


def package_path(*parts: str) -> Path:
    """Return the path of a file or folder that ships inside the package."""
    spec = util.find_spec("lego_serve")
    roots = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(roots[0] if roots else "lego_serve").joinpath(*parts)
