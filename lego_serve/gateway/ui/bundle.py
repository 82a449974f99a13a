"""Joins a page's modules into one, so that a browser asks once for all of them; no tool is needed to build anything.

A module becomes a block, so that its names stay its own; what it exports is kept in an object, from which the modules
that import it take their names.  The forms of `import` and `export` that our modules use are known here, others are
refused, and so is a circle of imports, whose order would matter.
"""

import posixpath
import re
from collections.abc import Mapping

IMPORT = re.compile(r'^import\s+(?:\{([^}]*)\}|\*\s+as\s+(\w+))\s+from\s+"(\.[^"]+)";', re.MULTILINE)
FOREIGN = re.compile(r'^import\s+(?:\{[^}]*\}|\w+)\s+from\s+"[^."][^"]*";\n?', re.MULTILINE)
EXPORT = re.compile(r"^export\s+((?:async\s+)?function|const|class)\s+(\w+)", re.MULTILINE)
EXPORTED = re.compile(r"^export\s+\{([^}]*)\};", re.MULTILINE)
OTHER = re.compile(r"^(?:import|export)\b.*|\bimport\(.*", re.MULTILINE)


class BundleError(Exception):
    """A module is written in a way that cannot be joined with others."""


def bundle(sources: Mapping[str, str], entry: str) -> str:
    """Return a module that does what ``entry`` does, with all that it imports of the ``sources``, by their paths.

    Imports of bare names stand at its beginning.  Raises BundleError.
    """
    order: list[str] = []
    _visit(sources, entry, order, ())
    foreign = sorted({line.strip() for name in order for line in FOREIGN.findall(sources[name])})
    return "\n".join([*foreign, *(_block(name, sources[name]) for name in order)]) + "\n"


def _visit(sources: Mapping[str, str], name: str, order: list[str], path: tuple[str, ...]) -> None:
    """Put a module behind all that it imports."""
    if name in path:
        raise BundleError(f"{' imports '.join((*path, name))}: a circle")
    if name not in sources:
        raise BundleError(f"{path[-1] if path else 'nobody'} imports {name}, which is not there")
    if name in order:
        return
    for found in IMPORT.finditer(sources[name]):
        _visit(sources, _resolved(name, found[3]), order, (*path, name))
    order.append(name)


def _block(name: str, source: str) -> str:
    """Return a module as a block that leaves what it exports in an object."""
    exported: list[str] = []

    def take(found: re.Match[str]) -> str:
        exports = _object(_resolved(name, found[3]))
        names = found[2] or "{" + re.sub(r"\s+as\s+", ": ", found[1]) + "}"
        return f"const {names} = {exports};"

    def note(found: re.Match[str]) -> str:
        exported.append(found[2])
        return f"{found[1]} {found[2]}"

    def note_all(found: re.Match[str]) -> str:
        exported.extend(each.strip() for each in found[1].split(",") if each.strip())
        return ""

    text = EXPORTED.sub(note_all, EXPORT.sub(note, FOREIGN.sub("", IMPORT.sub(take, source))))
    if (other := OTHER.search(text)) is not None:
        raise BundleError(f"{name}: cannot be joined with others: {other[0]}")
    end = f"Object.assign({_object(name)}, {{ {', '.join(exported)} }});"
    return f"const {_object(name)} = {{}};\n{{ // {name}\n{text.strip()}\n{end}\n}}"


def _resolved(name: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), path))


def _object(name: str) -> str:
    return "$" + re.sub(r"\W", "_", name.removesuffix(".js"))
