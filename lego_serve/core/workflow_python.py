"""Workflows declared in Python: a decorated function is called once with stand-ins and becomes a graph.

    @workflow("portrait")
    def portrait(prompt: Text, seed: Int = 0, n: Int = 1):
        cond, negative = text_encode("lego-tiny", prompt=prompt), text_encode("lego-tiny", prompt="")
        latents = denoise("lego-tiny", cond=cond, negative=negative, width=128, height=128,
                          steps=20, guidance=4.0, seed=seed, n=n)
        return decode("lego-tiny", latents=latents)
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lego_serve.core.workflow import KINDS, Workflow
from lego_serve.core.workflow_check import compile_workflow
from lego_serve.errors import WorkflowError


@dataclass(frozen=True, slots=True)
class Declared:
    """The type of an input, with bounds where numbers have them; used as an annotation."""

    type: str
    min: float | None = None
    max: float | None = None

    def __call__(self, low: float, high: float) -> "Declared":
        """The same type within bounds."""
        return Declared(self.type, low, high)


Text, Int, Float, Bool, Image = (Declared(t) for t in ("text", "int", "float", "bool", "image"))


@dataclass(frozen=True, slots=True)
class _Value:
    """Stands for a value while the function is traced."""

    reference: str


@dataclass(slots=True)
class _Trace:
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)


_traces: list[_Trace] = []


def _node(kind: str) -> Callable[..., _Value]:
    def add(model: str, *, name: str | None = None, **arguments: object) -> _Value:
        if not _traces:
            raise WorkflowError(f"{kind}() is called outside a @workflow function")
        nodes = _traces[-1].nodes
        count = sum(n["use"] == kind for n in nodes.values())
        chosen = name or (kind if count == 0 else f"{kind}_{count + 1}")
        plain = {k: v.reference if isinstance(v, _Value) else v for k, v in arguments.items()}
        nodes[chosen] = {"use": kind, "model": model, "with": plain}
        return _Value(f"${chosen}.{next(iter(KINDS[kind].outputs))}")

    return add


text_encode, encode_image, denoise, decode = (_node(k) for k in ("text_encode", "encode_image", "denoise", "decode"))


def workflow(name: str, version: str = "1") -> Callable[[Callable[..., Any]], Workflow]:
    """Compile the decorated function into a Workflow.  Raises WorkflowError naming file and line."""

    def trace(function: Callable[..., Any]) -> Workflow:
        parameters = inspect.signature(function).parameters.values()
        inputs = {p.name: _declared_input(p) for p in parameters}
        _traces.append(_Trace())
        try:
            result = function(**{p.name: _Value(f"$inputs.{p.name}") for p in parameters})
            nodes = _traces[-1].nodes
        finally:
            _traces.pop()
        if not isinstance(result, _Value):
            raise WorkflowError(f"{_place(function)}: workflow {name} must return what a node gave it")
        declared = {
            "metadata": {"name": name, "version": version},
            "inputs": inputs,
            "nodes": nodes,
            "outputs": {"image": result.reference},
        }
        return compile_workflow(declared, lambda path: _place(function))

    return trace


def _declared_input(parameter: inspect.Parameter) -> dict[str, Any]:
    declared = parameter.annotation
    if not isinstance(declared, Declared):
        raise WorkflowError(f"input `{parameter.name}` needs one of the annotations Text, Int, Float, Bool, Image")
    found: dict[str, Any] = {"type": declared.type}
    if parameter.default is inspect.Parameter.empty:
        found["required"] = True
    elif parameter.default is not None:
        found["default"] = parameter.default
    if declared.min is not None:
        found |= {"min": declared.min, "max": declared.max}
    return found


def _place(function: Callable[..., Any]) -> str:
    code = function.__code__
    return f"{code.co_filename.rpartition('/')[2]}:{code.co_firstlineno}"
