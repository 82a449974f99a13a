"""Reads the graph of a ``/prompt`` body and checks it against the table of nodes, as ComfyUI does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lego_serve.compat.comfyui.faults import Fault, PromptRefused, refused
from lego_serve.compat.comfyui.nodes import CLASSES, NodeClass
from lego_serve.compat.comfyui.values import Value, shown, value_fault
from lego_serve.compat.names import near

MAX_NODES = 300
MAX_FAULTS = 10  # told at once: to find the nearest name costs time
Lists = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Link:
    """The output of another node that an input takes."""

    node: str
    slot: int


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A node that passed the checks: its class, values and links by input."""

    id: str
    type: NodeClass
    values: Mapping[str, Value]
    links: Mapping[str, Link]


@dataclass(frozen=True, slots=True)
class Graph:
    """The nodes that the outputs need, by id, and the ids of the outputs."""

    nodes: Mapping[str, GraphNode]
    outputs: tuple[str, ...]

    def source(self, node: GraphNode, name: str) -> GraphNode:
        """Return the node that an input is linked to."""
        return self.nodes[node.links[name].node]


def read_graph(prompt: object, lists: Lists | None = None) -> Graph:
    """Check a prompt and return its graph; nodes that no output needs are left out unseen, as in ComfyUI.

    ``lists`` has the names that the server offers; without it any name passes.  Raises PromptRefused.
    """
    raw = _classes(prompt)
    outputs = tuple(node for node, (known, _) in raw.items() if known.is_output)
    if not outputs:
        raise PromptRefused("prompt_no_outputs", "Prompt has no outputs")
    names = {node: known.name for node, (known, _) in raw.items()}
    nodes: dict[str, GraphNode] = {}
    faults: list[Fault] = []
    waiting = list(outputs)
    while waiting and len(faults) < MAX_FAULTS:
        node = waiting.pop()
        if node in nodes:
            continue
        nodes[node], found = _checked(node, raw, lists)
        faults += found
        waiting += [link.node for link in nodes[node].links.values()]
    faults = faults or _cycles(nodes)
    if faults:
        raise refused(faults, names, outputs)
    return Graph(nodes, outputs)


def _classes(prompt: object) -> dict[str, tuple[NodeClass, Mapping[str, object]]]:
    """Return the class and the inputs of each node.  Raises PromptRefused, also for classes that are not known."""
    if not isinstance(prompt, Mapping) or not prompt:
        raise PromptRefused("no_prompt", "No prompt provided", "`prompt` must be an object of nodes by id")
    if len(prompt) > MAX_NODES:
        raise PromptRefused("invalid_prompt", "Prompt is too large", f"{len(prompt)} nodes; at most {MAX_NODES} may be")
    found: dict[str, tuple[NodeClass, Mapping[str, object]]] = {}
    faults: list[Fault] = []
    outputs: list[str] = []
    names: dict[str, str] = {}
    for node, entry in prompt.items():
        name = entry.get("class_type") if isinstance(entry, Mapping) else None
        if not isinstance(name, str):
            raise PromptRefused("missing_node_type", f"Node 'ID #{node}' has no class_type.", f"Node ID '#{node}'")
        inputs = entry.get("inputs", {})
        if not isinstance(inputs, Mapping):
            raise PromptRefused("invalid_prompt", "Inputs of a node must be an object", f"Node ID '#{node}'")
        names[node] = name
        known = CLASSES.get(name)
        if known is None and len(faults) == MAX_FAULTS:
            continue
        if known is None:
            faults.append(_unknown_class(node, name))
            continue
        found[node] = (known, inputs)
        outputs += [node] if known.is_output else []
    if faults:
        raise refused(faults, names, outputs)
    return found


def _unknown_class(node: str, name: str) -> Fault:
    nearest = near(name, CLASSES)
    hint = f"; did you mean {nearest}?" if nearest else ""
    message = (
        f"Node '{name[:64]}' not found. This server translates {len(CLASSES)} node classes, and not this one{hint}"
    )
    extra = {"node_id": node, "class_type": name, "nearest": nearest}
    return Fault(node, "missing_node_type", f"Node ID '#{node}'", message=message, extra=extra)


def _checked(
    node: str, raw: Mapping[str, tuple[NodeClass, Mapping[str, object]]], lists: Lists | None
) -> tuple[GraphNode, list[Fault]]:
    """Return a node with what is right about it, and its faults."""
    known, given = raw[node]
    values: dict[str, Value] = {}
    links: dict[str, Link] = {}
    faults: list[Fault] = []
    for declared in known.inputs:
        if declared.name not in given:
            if declared.is_required:
                faults.append(Fault(node, "required_input_missing", declared.name, declared.name))
            elif declared.default is not None:
                values[declared.name] = declared.default
            continue
        value = given[declared.name]
        if isinstance(value, list) or declared.is_link:
            link = _link(node, declared.name, declared.type, value, raw)
            if isinstance(link, Fault):
                faults.append(link)
            else:
                links[declared.name] = link
            continue
        result = value_fault(node, declared, value, lists)
        if isinstance(result, Fault):
            faults.append(result)
        else:
            values[declared.name] = result
    return GraphNode(node, known, values, links), faults


def _link(
    node: str, name: str, wanted: str, value: object, raw: Mapping[str, tuple[NodeClass, Mapping[str, object]]]
) -> Link | Fault:
    received = {"received_value": shown(value)}
    match value:
        case [str(source), int(slot)] if not isinstance(slot, bool):
            pass
        case _:
            return Fault(node, "bad_linked_input", name, name, extra=received)
    if source not in raw:
        return Fault(node, "bad_linked_input", f"{name}: there is no node {source[:64]}", name, extra=received)
    outputs = raw[source][0].outputs
    if not 0 <= slot < len(outputs):
        has = f"{name}: node {source} ({raw[source][0].name}) has {len(outputs)} outputs and no output {slot}"
        return Fault(node, "bad_linked_input", has, name, extra=received)
    kind = outputs[slot][0]
    if kind != wanted:
        details = f"{name}, received_type({kind}) mismatch input_type({wanted})"
        extra = {"received_type": kind, "linked_node": [source, slot]}
        return Fault(node, "return_type_mismatch", details, name, extra=extra)
    return Link(source, slot)


def _cycles(nodes: Mapping[str, GraphNode]) -> list[Fault]:
    """Return a fault for each node that waits for itself, in the end."""
    left = {node: {link.node for link in found.links.values()} for node, found in nodes.items()}
    while free := [node for node, sources in left.items() if not sources & left.keys()]:
        for node in free:
            del left[node]
    circle = ", ".join(sorted(left)[:8])
    return [Fault(node, "dependency_cycle", f"nodes {circle} wait for each other") for node in left]
