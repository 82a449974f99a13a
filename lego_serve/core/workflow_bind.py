"""Request values against a workflow's declared inputs: names, types, bounds, defaults."""

import math
from collections.abc import Mapping
from difflib import get_close_matches

from lego_serve.core.workflow import Input, Workflow
from lego_serve.errors import RequestError, UnsupportedParameter


def bind(workflow: Workflow, given: Mapping[str, object]) -> dict[str, object]:
    """The values of every input, defaults filled in.  Raises RequestError naming the input at fault."""
    for name in given:
        if name not in workflow.inputs:
            near = get_close_matches(name, workflow.inputs, 1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise UnsupportedParameter(f"Workflow {workflow.name} takes no input of this name.{hint}", param=name)
    bound: dict[str, object] = {}
    for name, declared in workflow.inputs.items():
        value = given.get(name)
        if value is None:
            if declared.required:
                raise RequestError(f"`{name}` is required by workflow {workflow.name}.", param=name, code="missing")
            bound[name] = declared.default
        else:
            bound[name] = _checked(name, declared, value)
    return bound


def _checked(name: str, declared: Input, value: object) -> object:
    if declared.type == "float" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    expected = {"text": str, "int": int, "float": float, "bool": bool}.get(declared.type)
    if expected is not None and type(value) is not expected:
        raise RequestError(f"`{name}` must be of type {declared.type}.", param=name, code="invalid_type")
    if isinstance(value, float) and not math.isfinite(value):
        raise RequestError(f"`{name}` must be a finite number.", param=name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = declared.min, declared.max
        if (low is not None and value < low) or (high is not None and value > high):
            raise RequestError(f"`{name}` must lie between {low:g} and {high:g}.", param=name, code="out_of_range")
    return value
