"""From a declaration (plain dicts) to a checked Workflow; every complaint names line, place and nearest name."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from typing import Any

from lego_serve.core.workflow import INPUT_TYPES, KINDS, Input, Node, Source, Workflow
from lego_serve.errors import WorkflowError

Path = tuple[str, ...]
Where = Callable[[Path], str]
API_VERSION = "lego.dev/v1"


def nearest(word: str, known: Any) -> str:
    """ `` did you mean `x`?`` or nothing."""
    near = get_close_matches(str(word), [str(k) for k in known], 1)
    return f"; did you mean `{near[0]}`?" if near else f"; there is {', '.join(sorted(map(str, known)))}"


def compile_workflow(declared: Mapping[str, Any], where: Where) -> Workflow:
    """Check a declaration and build its Workflow.  ``where`` tells file and line of a path into it.

    Raises WorkflowError.
    """
    return _Compiler(where).workflow(declared)


class _Compiler:
    def __init__(self, where: Where) -> None:
        self._where = where

    def _fail(self, path: Path, message: str) -> WorkflowError:
        place = " ".join((path[0].removesuffix("s"), *path[1:2])) if len(path) > 1 else "".join(path)
        return WorkflowError(f"{self._where(path)}: {place + ': ' if place else ''}{message}")

    def workflow(self, declared: Mapping[str, Any]) -> Workflow:
        self._keys((), declared, {"apiVersion", "kind", "metadata", "inputs", "nodes", "outputs"}, {"metadata", "nodes", "outputs"})
        if declared.get("apiVersion", API_VERSION) != API_VERSION or declared.get("kind", "Workflow") != "Workflow":
            raise self._fail(("apiVersion",), f"this is no `{API_VERSION}` `Workflow`")
        metadata = self._mapping(("metadata",), declared["metadata"])
        self._keys(("metadata",), metadata, {"name", "version"}, {"name"})
        inputs = {
            str(name): self._input(("inputs", str(name)), value)
            for name, value in self._mapping(("inputs",), declared.get("inputs", {})).items()
        }
        raw_nodes = self._mapping(("nodes",), declared["nodes"])
        nodes = {str(n): self._node(("nodes", str(n)), value, inputs, raw_nodes) for n, value in raw_nodes.items()}
        if not nodes:
            raise self._fail(("nodes",), "a workflow needs at least one node")
        outputs = self._mapping(("outputs",), declared["outputs"])
        found = {
            str(name): self._source(("outputs", str(name)), value, inputs, raw_nodes) for name, value in outputs.items()
        }
        if not found:
            raise self._fail(("outputs",), "a workflow needs at least one output")
        for name, source in found.items():
            if source.node == "inputs":
                raise self._fail(("outputs", name), "an output must come from a node")
        self._acyclic(nodes)
        self._all_used(inputs, nodes, found)
        return Workflow(str(metadata["name"]), str(metadata.get("version", "1")), inputs, nodes, found)

    def _mapping(self, path: Path, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise self._fail(path, "a mapping is expected here")
        return value

    def _keys(self, path: Path, value: Mapping[str, Any], known: set[str], required: set[str]) -> None:
        for key in value:
            if key not in known:
                raise self._fail((*path, str(key)), f"unknown key `{key}`{nearest(key, known)}")
        for key in sorted(required - set(value)):
            raise self._fail(path, f"key `{key}` is missing")

    def _input(self, path: Path, value: Any) -> Input:
        value = self._mapping(path, value)
        self._keys(path, value, {"type", "required", "default", "min", "max"}, {"type"})
        if value["type"] not in INPUT_TYPES:
            raise self._fail((*path, "type"), f"unknown type `{value['type']}`{nearest(value['type'], INPUT_TYPES)}")
        default = value.get("default")
        if default is not None and not _fits(value["type"], default):
            raise self._fail((*path, "default"), f"the default is not of type {value['type']}")
        if value["type"] == "float" and isinstance(default, int):
            default = float(default)
        low, high = value.get("min"), value.get("max")
        if (low is None) != (high is None):
            raise self._fail(path, "`min` and `max` come together")
        if low is not None and (default is not None and not low <= default <= high):
            raise self._fail((*path, "default"), f"the default {default} lies outside {low}..{high}")
        return Input(value["type"], bool(value.get("required", False)), default, low, high)

    def _node(self, path: Path, value: Any, inputs: Mapping[str, Input], nodes: Mapping[str, Any]) -> Node:
        value = self._mapping(path, value)
        self._keys(path, value, {"use", "model", "with"}, {"use", "model"})
        if value["use"] not in KINDS:
            raise self._fail((*path, "use"), f"unknown kind of node `{value['use']}`{nearest(value['use'], KINDS)}")
        kind = KINDS[value["use"]]
        arguments: dict[str, object] = {}
        for name, argument in self._mapping((*path, "with"), value.get("with", {})).items():
            at = (*path, "with", str(name))
            if name not in kind.arguments:
                raise self._fail(at, f"`{value['use']}` takes no `{name}`{nearest(name, kind.arguments)}")
            expected = kind.arguments[name]
            if isinstance(argument, str) and argument.startswith("$"):
                source = self._source(at, argument, inputs, nodes)
                self._check_type(at, source, expected, inputs, nodes)
                arguments[str(name)] = source
            elif _fits(expected, argument):
                arguments[str(name)] = argument
            else:
                raise self._fail(at, f"`{name}` must be {expected}, not {type(argument).__name__}")
        for name in sorted(kind.required - set(arguments)):
            raise self._fail(path, f"`{value['use']}` needs `{name}`")
        return Node(path[-1], value["use"], str(value["model"]), arguments)

    def _source(self, path: Path, text: Any, inputs: Mapping[str, Input], nodes: Mapping[str, Any]) -> Source:
        if not isinstance(text, str) or not text.startswith("$"):
            raise self._fail(path, "a reference like `$node.output` is expected here")
        node, _, output = text[1:].partition(".")
        if node == "inputs":
            if output not in inputs:
                raise self._fail(path, f"unknown input `{output}`{nearest(output, inputs)}")
            return Source(node, output)
        if node not in nodes:
            raise self._fail(path, f"unknown node `{node}`{nearest(node, [*nodes, 'inputs'])}")
        use = nodes[node].get("use") if isinstance(nodes[node], Mapping) else None
        outputs = KINDS[use].outputs if use in KINDS else {}
        if not output and len(outputs) == 1:
            return Source(node, next(iter(outputs)))
        if outputs and output not in outputs:
            raise self._fail(path, f"node `{node}` has no output `{output}`{nearest(output, outputs)}")
        return Source(node, output)

    def _check_type(
        self, path: Path, source: Source, expected: str, inputs: Mapping[str, Input], nodes: Mapping[str, Any]
    ) -> None:
        if source.node == "inputs":
            found = inputs[source.output].type
        else:
            kind = KINDS.get(nodes[source.node].get("use"))
            found = kind.outputs[source.output] if kind else expected
        if found != expected and (found, expected) != ("int", "float"):
            raise self._fail(path, f"`{path[-1]}` must be {expected}, but {source} is {found}")

    def _acyclic(self, nodes: Mapping[str, Node]) -> None:
        graph = {name: {a.node for a in n.arguments.values() if isinstance(a, Source)} - {"inputs"} for name, n in nodes.items()}
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle = error.args[1]
            raise self._fail(("nodes", circle[0]), f"nodes wait for each other: {' <- '.join(circle)}") from None

    def _all_used(self, inputs: Mapping[str, Input], nodes: Mapping[str, Node], outputs: Mapping[str, Source]) -> None:
        sources = [a for n in nodes.values() for a in n.arguments.values() if isinstance(a, Source)]
        sources += outputs.values()
        for name in inputs:
            if Source("inputs", name) not in sources:
                raise self._fail(("inputs", name), "no node uses this input")
        for name in nodes:
            if not any(s.node == name for s in sources):
                raise self._fail(("nodes", name), "nothing uses this node")


def _fits(expected: str, value: object) -> bool:
    types: dict[str, tuple[type, ...]] = {"text": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}
    if isinstance(value, bool) and expected != "bool":
        return False
    return isinstance(value, types.get(expected, ()))
