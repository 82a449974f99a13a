"""Compiles a declaration (plain dicts) to a checked Workflow; every error names line, place and nearest name.

Checked are: keys, names and types everywhere; the type of every argument; that required arguments are present and have
a value; that the graph has no cycle; that every input and node is used.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from lego_serve.core.suggest import closest
from lego_serve.core.workflow.graph import API_VERSION, INPUT_TYPES, KINDS, OUTPUTS, Input, Kind, Node, Source, Workflow
from lego_serve.core.workflow.types import article, as_type, is_unicode
from lego_serve.errors import WorkflowError

Path = tuple[str, ...]
Where = Callable[[Path], str]
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
WORKFLOW_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RENAMED = {"reuse_floor": "min_ssim"}  # keys of earlier versions, and their new names
INPUTS = "inputs"  # `$inputs.name` refers to an input, not to a node


def compile_workflow(declared: Mapping[str, Any], where: Where) -> Workflow:
    """Check a declaration and build its Workflow; ``where`` returns the file and line of a path.

    Raises WorkflowError.
    """
    return _Compiler(where).workflow(declared)


def nearest(word: object, known: Collection[str]) -> str:
    """Return the end of an error message about an unknown word: the nearest known one, or all of them."""
    near = closest(str(word), known)
    if near:
        return f"; did you mean `{near}`?"
    return f"; there is {', '.join(f'`{k}`' for k in sorted(known))}" if known else ""


class _Compiler:
    """The compilation of one declaration: first inputs, then the kinds of nodes, then the references to both."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._inputs: dict[str, Input] = {}
        self._kinds: dict[str, Kind] = {}

    def workflow(self, declared: Mapping[str, Any]) -> Workflow:
        required = {"metadata", "nodes", "outputs"}
        self._keys((), declared, required | {"apiVersion", "kind", INPUTS}, required)
        for key, expected in (("apiVersion", API_VERSION), ("kind", "Workflow")):
            if declared.get(key, expected) != expected:
                raise self._fail((key,), f"`{key}` must be `{expected}`")
        name, version, min_ssim, slo_s = self._metadata(declared["metadata"])
        for key, value in self._mapping((INPUTS,), declared.get(INPUTS, {})).items():
            self._inputs[self._name((INPUTS, key))] = self._input((INPUTS, key), value)
        raw_nodes = self._mapping(("nodes",), declared["nodes"])
        for key, value in raw_nodes.items():
            self._kinds[self._name(("nodes", key))] = self._kind(("nodes", key), value)
        nodes = {key: self._node(("nodes", key), value) for key, value in raw_nodes.items()}
        outputs = self._outputs(declared["outputs"])
        self._acyclic(nodes)
        self._all_used(nodes, outputs)
        return Workflow(name, version, self._inputs, nodes, outputs, min_ssim, slo_s)

    def _fail(self, path: Path, message: str) -> WorkflowError:
        place = f"{path[0].removesuffix('s')} {path[1]}: " if len(path) > 1 else ""
        return WorkflowError(f"{self._where(path)}: {place}{message}")

    def _mapping(self, path: Path, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise self._fail(path, f"`{path[-1]}` must be a mapping")
        return value

    def _keys(self, path: Path, value: Mapping[str, Any], known: Collection[str], required: Collection[str]) -> None:
        for key in value:
            if key not in known:
                new = RENAMED.get(key)
                hint = f"; it is now `{new}`" if new in known else nearest(key, known)
                raise self._fail((*path, key), f"unknown key `{key}`{hint}")
        for key in sorted(required):
            if key not in value:
                raise self._fail(path, f"key `{key}` is missing")

    def _one_of(self, path: Path, value: Any, known: Collection[str], what: str) -> str:
        if not isinstance(value, str) or value not in known:
            raise self._fail(path, f"unknown {what} `{value}`{nearest(value, known)}")
        return value

    def _name(self, path: Path) -> str:
        if path[-1] == INPUTS or not NAME.fullmatch(path[-1]):
            raise self._fail(path, "a name has letters, digits and `_`, starts with no digit, and is not `inputs`")
        return path[-1]

    def _metadata(self, value: Any) -> tuple[str, str, float | None, float | None]:
        metadata = self._mapping(("metadata",), value)
        self._keys(("metadata",), metadata, {"name", "version", "min_ssim", "slo_s"}, {"name"})
        name, version = metadata["name"], metadata.get("version", "1")
        if not isinstance(name, str) or not WORKFLOW_NAME.fullmatch(name):
            raise self._fail(("metadata", "name"), "a workflow's name is text of letters, digits, `.`, `_` and `-`")
        if isinstance(version, bool) or not isinstance(version, str | int | float) or not is_unicode(str(version)):
            raise self._fail(("metadata", "version"), "a version is text")
        min_ssim = self._number(metadata, "min_ssim", lambda number: 0 <= number <= 1, "a number from 0 to 1")
        slo_s = self._number(metadata, "slo_s", lambda number: 0 < number < math.inf, "seconds, more than 0")
        return name, str(version), min_ssim, slo_s

    def _number(
        self, metadata: Mapping[str, Any], name: str, is_within: Callable[[float], bool], what: str
    ) -> float | None:
        """Return a number of the metadata; None where it is not given."""
        value = metadata.get(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and is_within(value)):
            raise self._fail(("metadata", name), f"`{name}` is {what}")
        return None if value is None else float(value)

    def _input(self, path: Path, value: Any) -> Input:
        fields = self._mapping(path, value)
        self._keys(path, fields, {"type", "required", "default", "min", "max"}, {"type"})
        kind = self._one_of((*path, "type"), fields["type"], INPUT_TYPES, "type")
        required = fields.get("required", False)
        if not isinstance(required, bool):
            raise self._fail((*path, "required"), "`required` must be true or false")
        low, high = self._bounds(path, fields, kind)
        default = fields.get("default")
        if default is None:
            return Input(kind, required, None, low, high)
        if required:
            raise self._fail((*path, "default"), "an input that is required needs no default")
        default = self._literal((*path, "default"), default, kind)
        if low is not None and high is not None and not low <= default <= high:
            raise self._fail((*path, "default"), f"the default {default} lies outside {low} to {high}")
        return Input(kind, required, default, low, high)

    def _bounds(self, path: Path, fields: Mapping[str, Any], kind: str) -> tuple[float | None, float | None]:
        if "min" not in fields and "max" not in fields:
            return None, None
        if kind not in ("int", "float"):
            raise self._fail(path, f"`min` and `max` are for numbers, not for {kind}")
        if "min" not in fields or "max" not in fields:
            raise self._fail(path, "`min` and `max` come together")
        low, high = (self._literal((*path, key), fields[key], kind) for key in ("min", "max"))
        if low > high:
            raise self._fail((*path, "min"), f"`min` {low} is more than `max` {high}")
        return low, high

    def _literal(self, path: Path, value: Any, kind: str) -> Any:
        try:
            return as_type(value, kind)
        except (TypeError, ValueError) as error:
            raise self._fail(path, f"`{path[-1]}` {error}") from None

    def _kind(self, path: Path, value: Any) -> Kind:
        fields = self._mapping(path, value)
        self._keys(path, fields, {"use", "model", "with"}, {"use", "model"})
        return KINDS[self._one_of((*path, "use"), fields["use"], KINDS, "kind of node")]

    def _node(self, path: Path, fields: Mapping[str, Any]) -> Node:
        use, model, kind = fields["use"], fields["model"], self._kinds[path[-1]]
        if not isinstance(model, str) or not WORKFLOW_NAME.fullmatch(model):
            raise self._fail((*path, "model"), "`model` must be the name of a model")
        arguments: dict[str, object] = {}
        for name, value in self._mapping((*path, "with"), fields.get("with", {})).items():
            if name not in kind.arguments:
                raise self._fail((*path, "with", name), f"`{use}` takes no `{name}`{nearest(name, kind.arguments)}")
            arguments[name] = self._argument((*path, "with", name), value, kind, use)
        for name in sorted(kind.required):
            if name not in arguments:
                raise self._fail(path, f"`{use}` needs `{name}`")
        return Node(path[-1], use, model, arguments)

    def _argument(self, path: Path, value: Any, kind: Kind, use: str) -> object:
        name = path[-1]
        expected = kind.arguments[name]
        if not isinstance(value, str) or not value.startswith("$"):
            return self._literal(path, value, expected)
        if value.startswith("$$"):  # a text that begins with a dollar
            return self._literal(path, value[1:], expected)
        source = self._source(path, value)
        actual = self._type(source)
        if actual != expected and (actual, expected) != ("int", "float"):
            raise self._fail(path, f"`{name}` takes {article(expected)}, but `{source}` is {article(actual)}")
        if source.node == INPUTS and name in kind.required:
            declared = self._inputs[source.output]
            if not declared.required and declared.default is None:
                raise self._fail(path, f"`{use}` needs `{name}`, but `{source}` is neither required nor has a default")
        return source

    def _source(self, path: Path, text: Any) -> Source:
        if not isinstance(text, str) or not text.startswith("$"):
            raise self._fail(path, "a reference like `$node` or `$node.output` is expected here")
        node, _, output = text[1:].partition(".")
        if node == INPUTS:
            return Source(node, self._one_of(path, output, self._inputs, "input"))
        self._one_of(path, node, [*self._kinds, INPUTS], "node")
        outputs = self._kinds[node].outputs
        if not output and len(outputs) == 1:
            return Source(node, next(iter(outputs)))
        if output not in outputs:
            raise self._fail(path, f"node `{node}` has no output `{output}`{nearest(output, outputs)}")
        return Source(node, output)

    def _type(self, source: Source) -> str:
        if source.node == INPUTS:
            return self._inputs[source.output].type
        return self._kinds[source.node].outputs[source.output]

    def _outputs(self, value: Any) -> dict[str, Source]:
        fields = self._mapping(("outputs",), value)
        self._keys(("outputs",), fields, OUTPUTS, OUTPUTS)
        outputs = {name: self._source(("outputs", name), text) for name, text in fields.items()}
        for name, source in outputs.items():
            if source.node == INPUTS:
                raise self._fail(("outputs", name), "an output must come from a node")
            if self._type(source) != OUTPUTS[name]:
                expected, actual = article(OUTPUTS[name]), article(self._type(source))
                raise self._fail(("outputs", name), f"`{name}` must be {expected}, but `{source}` is {actual}")
        return outputs

    def _acyclic(self, nodes: Mapping[str, Node]) -> None:
        try:
            TopologicalSorter({name: node.needs for name, node in nodes.items()}).prepare()
        except CycleError as error:
            cycle = error.args[1]
            raise self._fail(("nodes", cycle[0]), f"nodes wait for each other: {' -> '.join(cycle)}") from None

    def _all_used(self, nodes: Mapping[str, Node], outputs: Mapping[str, Source]) -> None:
        used = {a for n in nodes.values() for a in n.arguments.values() if isinstance(a, Source)} | {*outputs.values()}
        for name in self._inputs:
            if Source(INPUTS, name) not in used:
                raise self._fail((INPUTS, name), "nothing uses this input")
        for name in nodes:
            if not any(source.node == name for source in used):
                raise self._fail(("nodes", name), "nothing uses this node")
