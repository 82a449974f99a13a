"""Workflows from files: YAML, with the line of everything in it, or Python; and those in the package."""

import runpy
import traceback
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from lego_serve.core.workflow import Workflow
from lego_serve.core.workflow_check import compile_workflow
from lego_serve.errors import WorkflowError

MAX_BYTES = 1 << 20
SCALARS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}


def load_workflow(text: str, filename: str) -> Workflow:
    """Compile YAML text.  Raises WorkflowError whose message starts with ``filename:line:``."""
    reader = _Reader(filename)
    return compile_workflow(reader.read(text), reader.where)


def read_workflow(path: Path) -> Workflow:
    """Compile the workflow of a file: YAML, or Python (which is run) where the name ends in ``.py``.

    Raises WorkflowError.
    """
    try:
        data = path.read_bytes()
        if len(data) > MAX_BYTES:
            raise WorkflowError(f"{path}: more than {MAX_BYTES} bytes are no workflow")
        text = data.decode()
    except OSError as error:
        raise WorkflowError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WorkflowError(f"{path}: is not UTF-8 text") from None
    return _run_python(path) if path.suffix == ".py" else load_workflow(text, str(path))


def built_in_workflows() -> dict[str, Workflow]:
    """The workflows in the package, by name."""
    folder = resources.files("lego_serve") / "workflows"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    found = [load_workflow(file.read_text(encoding="utf-8"), file.name) for file in files]
    return {workflow.name: workflow for workflow in found}


def _run_python(path: Path) -> Workflow:
    try:
        names = runpy.run_path(str(path))
    except WorkflowError:
        raise
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else 1
        raise WorkflowError(f"{path}:{line}: {type(error).__name__}: {error}") from error
    found = {id(value): value for value in names.values() if isinstance(value, Workflow)}
    if len(found) != 1:
        listed = ", ".join(sorted(w.name for w in found.values()))
        raise WorkflowError(f"{path}:1: a file declares one workflow, this one {listed or 'none'}")
    return next(iter(found.values()))


class _Reader:
    """One YAML text as plain values, and the line of every key in it.

    Workflows come from strangers: aliases (which can grow without bound or contain themselves), tags
    and depth are refused instead of followed.
    """

    def __init__(self, filename: str) -> None:
        self._filename = filename
        self._lines: dict[tuple[str, ...], int] = {(): 1}
        self._seen: set[int] = set()
        self._construct: Callable[[Any], Any] = yaml.SafeLoader("").construct_object

    def where(self, path: tuple[str, ...]) -> str:
        """File and line of a path, or of the nearest thing that holds it."""
        while path not in self._lines:
            path = path[:-1]
        return f"{self._filename}:{self._lines[path]}"

    def read(self, text: str) -> dict[str, Any]:
        """The text's one mapping.  Raises WorkflowError."""
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
            raise self._fail(mark.line if mark is not None else 0, f"not YAML: {problem}") from None
        except RecursionError:
            raise self._fail(0, "nested too deeply") from None
        if not isinstance(root, yaml.MappingNode):
            raise self._fail(0, "a workflow is a mapping")
        try:
            return self._mapping(root, ())
        except RecursionError:
            raise self._fail(0, "nested too deeply") from None

    def _fail(self, line: int, message: str) -> WorkflowError:
        return WorkflowError(f"{self._filename}:{line + 1}: {message}")

    def _plain(self, node: Any, path: tuple[str, ...]) -> Any:
        line = node.start_mark.line
        if id(node) in self._seen:
            raise self._fail(line, "aliases are not taken in workflows")
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, path) for item in node.value]
        if node.tag not in SCALARS:
            raise self._fail(line, f"`{node.value}` is neither text, number nor truth; quote it to mean text")
        try:
            return self._construct(node)
        except (yaml.YAMLError, ValueError):
            raise self._fail(line, f"`{node.value[:40]}` is not what it claims to be") from None

    def _mapping(self, node: Any, path: tuple[str, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._fail(line, "a key is a word")
            key = str(key_node.value)
            if key in found:
                raise self._fail(line, f"key `{key}` is given twice")
            self._lines[(*path, key)] = line + 1
            found[key] = self._plain(value_node, (*path, key))
        return found
