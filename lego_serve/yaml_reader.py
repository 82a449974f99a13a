"""Reads YAML as plain values with the line of every key, and refuses whatever could surprise."""

from collections.abc import Callable
from typing import Any

import yaml

from lego_serve.errors import LegoError

SCALARS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}


class YamlReader:
    """Reads one YAML text; ``what`` is the kind of file, ``error`` the class of its errors.

    The text may come from strangers: aliases (which can grow without bound or contain themselves), tags, duplicate keys
    and deep nesting are errors.
    """

    def __init__(self, filename: str, what: str, error: type[LegoError]) -> None:
        self._filename, self._what, self._error = filename, what, error
        self._lines: dict[tuple[str, ...], int] = {(): 1}
        self._seen: set[int] = set()
        self._construct: Callable[[Any], Any] = yaml.SafeLoader("").construct_object

    def where(self, path: tuple[str, ...]) -> str:
        """Return file and line of a path, or of its nearest known parent; items of a list are numbered."""
        while path not in self._lines:
            path = path[:-1]
        return f"{self._filename}:{self._lines[path]}"

    def read(self, text: str) -> dict[str, Any]:
        """Return the mapping that the text is.  Raises an error of the reader's class."""
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
            raise self._fail(mark.line if mark is not None else 0, f"not YAML: {problem}") from None
        except RecursionError:
            raise self._fail(0, "nested too deeply") from None
        if not isinstance(root, yaml.MappingNode):
            raise self._fail(0, f"a {self._what} is a mapping")
        try:
            return self._mapping(root, ())
        except RecursionError:
            raise self._fail(0, "nested too deeply") from None

    def _fail(self, line: int, message: str) -> LegoError:
        return self._error(f"{self._filename}:{line + 1}: {message}")

    def _plain(self, node: Any, path: tuple[str, ...]) -> Any:
        line = node.start_mark.line
        if id(node) in self._seen:
            raise self._fail(line, f"aliases are not taken in {self._what}s")
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*path, str(index))) for index, item in enumerate(node.value)]
        if node.tag not in SCALARS:
            raise self._fail(line, f"`{node.value}` is neither text, number nor truth; quote it to mean text")
        try:
            return self._construct(node)
        except (yaml.YAMLError, ValueError):
            raise self._fail(line, f"`{node.value[:40]}` is not what it claims to be") from None

    def _mapping(self, node: Any, path: tuple[str, ...]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._fail(line, "a key is a word")
            key = str(key_node.value)
            if key in mapping:
                raise self._fail(line, f"key `{key}` is given twice")
            self._lines[(*path, key)] = line + 1
            mapping[key] = self._plain(value_node, (*path, key))
        return mapping
