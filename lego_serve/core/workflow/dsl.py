"""Declares workflows in Python: a decorated function is called once with placeholders and becomes a graph.

For example::

    @workflow("portrait")
    def portrait(prompt: Text, steps: Int(1, 50) = 20, seed: Int = 0):
        latents = denoise(
            "lego-tiny",
            cond=text_encode("lego-tiny", prompt=prompt),
            negative=text_encode("lego-tiny", prompt=""),
            width=128, height=128, steps=steps, guidance=4.0, seed=seed, n=1,
        )
        return decode("lego-tiny", latents=latents)

``portrait`` then is a Workflow.  A node is named by its kind, numbered from the second on, unless ``name=`` names it; a
YAML file with the same names has the same content hash.
"""

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from lego_serve.core.workflow.compile import Path, compile_workflow
from lego_serve.core.workflow.graph import INPUT_TYPES, KINDS, OUTPUTS, Workflow
from lego_serve.errors import WorkflowError


@dataclass(frozen=True, slots=True)
class DeclaredInput:
    """The type of an input, used as an annotation; a call with two numbers returns the type within these bounds."""

    type: str
    min: float | None = None
    max: float | None = None

    def __call__(self, low: float, high: float) -> "DeclaredInput":
        return DeclaredInput(self.type, low, high)


Text, Int, Float, Bool, Image, Sampler, Tier, Adapters, Controls, Edit = (DeclaredInput(t) for t in INPUT_TYPES)


@dataclass(frozen=True, slots=True)
class Value:
    """A placeholder for an input or a node's output while a function is traced."""

    reference: str


Argument = Value | str | int | float | bool


@dataclass(slots=True)
class _Trace:
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)


_tracing: ContextVar[_Trace | None] = ContextVar("tracing", default=None)


def text_encode(model: str, *, name: str | None = None, **arguments: Argument) -> Value:
    """A node that turns ``prompt`` into conditioning."""
    return _add("text_encode", model, name, arguments)


def encode_image(model: str, *, name: str | None = None, **arguments: Argument) -> Value:
    """A node that encodes ``image`` for a denoising to start from."""
    return _add("encode_image", model, name, arguments)


def load_adapters(model: str, *, name: str | None = None, **arguments: Argument) -> Value:
    """A node that identifies the adapters of a request (``lora``) and starts to load them."""
    return _add("load_adapters", model, name, arguments)


def encode_controls(model: str, *, name: str | None = None, **arguments: Argument) -> Value:
    """A node that encodes the images of a request's ControlNets (``controlnet``)."""
    return _add("encode_controls", model, name, arguments)


def encode_edit(model: str, *, name: str | None = None, **arguments: Argument) -> Value:
    """A node that encodes the image of an ``edit`` and its mask."""
    return _add("encode_edit", model, name, arguments)


def denoise(model: str, *, name: str | None = None, **arguments: Argument) -> Value:
    """A node that denoises latents, from noise or from an encoded image (``init``, ``strength``)."""
    return _add("denoise", model, name, arguments)


def decode(model: str, *, name: str | None = None, **arguments: Argument) -> Value:
    """A node that decodes ``latents`` to an image."""
    return _add("decode", model, name, arguments)


def decode_edit(model: str, *, name: str | None = None, **arguments: Argument) -> Value:
    """A node that decodes ``latents`` to the changed part of an ``edit``'s image; the other pixels stay."""
    return _add("decode_edit", model, name, arguments)


def workflow(name: str, version: str = "1") -> Callable[[Callable[..., Value]], Workflow]:
    """Compile the decorated function into a Workflow.  Raises WorkflowError naming file and line."""

    def compiled(function: Callable[..., Value]) -> Workflow:
        place = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
        inputs = _inputs(function, place)
        trace = _Trace()
        token = _tracing.set(trace)
        try:
            result = function(**{key: Value(f"$inputs.{key}") for key in inputs})
        finally:
            _tracing.reset(token)
        if not isinstance(result, Value):
            raise WorkflowError(f"{place}: workflow {name} must return what a node gave it")

        def where(path: Path) -> str:
            return trace.places[path[1]] if path[:1] == ("nodes",) and len(path) > 1 else place

        outputs = dict.fromkeys(OUTPUTS, result.reference)
        metadata = {"name": name, "version": version}
        return compile_workflow(
            {"metadata": metadata, "inputs": inputs, "nodes": trace.nodes, "outputs": outputs}, where
        )

    return compiled


def _add(kind: str, model: str, name: str | None, arguments: dict[str, Argument]) -> Value:
    place = _place_of_call()
    trace = _tracing.get()
    if trace is None:
        raise WorkflowError(f"{place}: {kind}() is called outside a @workflow function")
    numbered = (kind if i == 1 else f"{kind}_{i}" for i in count(1))
    node = name or next(n for n in numbered if n not in trace.nodes)
    if node in trace.nodes:
        raise WorkflowError(f"{place}: node {node}: another node has this name")
    trace.nodes[node] = {"use": kind, "model": model, "with": {key: _plain(a) for key, a in arguments.items()}}
    trace.places[node] = place
    return Value(f"${node}.{next(iter(KINDS[kind].outputs))}")


def _plain(argument: Argument) -> object:
    if isinstance(argument, Value):
        return argument.reference
    if isinstance(argument, str) and argument.startswith("$"):
        return f"${argument}"  # escapes the dollar: in Python a string is never a reference
    return argument


def _place_of_call() -> str:
    """Return file and line of the author's call: two frames above ``_add``."""
    frame = inspect.currentframe()
    for _ in range(3):
        frame = frame.f_back if frame is not None else None
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "?"


def _inputs(function: Callable[..., Value], place: str) -> dict[str, dict[str, Any]]:
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError as error:
        raise WorkflowError(f"{place}: unknown annotation: {error}") from None
    return {parameter.name: _declared(parameter, place) for parameter in signature.parameters.values()}


def _declared(parameter: inspect.Parameter, place: str) -> dict[str, Any]:
    annotation = parameter.annotation
    if not isinstance(annotation, DeclaredInput):
        raise WorkflowError(
            f"{place}: input {parameter.name}: annotate it with Text, Int, Float, Bool, Image, Sampler, Tier, "
            "Adapters or Controls"
        )
    declaration: dict[str, Any] = {"type": annotation.type}
    if parameter.default is inspect.Parameter.empty:
        declaration["required"] = True
    elif parameter.default is not None:
        declaration["default"] = parameter.default
    if annotation.min is not None:
        declaration |= {"min": annotation.min, "max": annotation.max}
    return declaration
