"""Workflows from YAML files, with the line of everything in them; and those that ship with the package."""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from lego_serve.core.workflow import Workflow
from lego_serve.core.workflow_check import compile_workflow
from lego_serve.errors import WorkflowError

Lines = dict[tuple[str, ...], int]


def load_workflow(text: str, filename: str) -> Workflow:
    """Compile YAML text.  Raises WorkflowError whose message starts with ``filename:line``."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 1
        raise WorkflowError(f"{filename}:{line}: no YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
    if not isinstance(root, yaml.MappingNode):
        raise WorkflowError(f"{filename}:1: a workflow is a mapping")
    lines: Lines = {(): 1}
    declared = _plain(root, (), lines, filename)

    def where(path: tuple[str, ...]) -> str:
        while path not in lines:
            path = path[:-1]
        return f"{filename}:{lines[path]}"

    return compile_workflow(declared, where)


def read_workflow(path: Path) -> Workflow:
    """Compile a YAML file.  Raises WorkflowError."""
    try:
        return load_workflow(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise WorkflowError(f"{path}: cannot be read: {type(error).__name__}") from None


def built_in_workflows() -> dict[str, Workflow]:
    """The workflows in the package, by name."""
    folder = resources.files("lego_serve") / "workflows"
    found = [
        load_workflow(file.read_text(), file.name)
        for file in sorted(folder.iterdir(), key=lambda f: f.name)
        if file.name.endswith(".yaml")
    ]
    return {workflow.name: workflow for workflow in found}


def _plain(node: yaml.Node, path: tuple[str, ...], lines: Lines, filename: str) -> Any:
    """A YAML node as plain values; notes the line of every mapping key on the way."""
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in found:
                raise WorkflowError(f"{filename}:{key_node.start_mark.line + 1}: key `{key}` is given twice")
            lines[(*path, key)] = key_node.start_mark.line + 1
            found[key] = _plain(value_node, (*path, key), lines, filename)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, path, lines, filename) for item in node.value]
    return yaml.SafeLoader("").construct_object(node)  # type: ignore[no-untyped-call]
