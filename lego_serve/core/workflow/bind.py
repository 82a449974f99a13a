"""Binds the values of a request to a workflow's declared inputs: checks names, types and bounds, adds defaults."""

from collections.abc import Mapping

from lego_serve.core.suggest import closest
from lego_serve.core.workflow.graph import Input, Workflow
from lego_serve.core.workflow.types import as_type
from lego_serve.errors import RequestError, UnsupportedParameter

OPAQUE = ("image", "adapters", "controls", "edit")  # types of values that the gateway builds, not checked here


def bind(workflow: Workflow, values: Mapping[str, object]) -> dict[str, object]:
    """Return the value of every input; an input that is absent or None gets its default, or None.

    Raises UnsupportedParameter for a name that the workflow does not declare, and RequestError for a value that is
    missing, of another type, or out of bounds; ``param`` names the input.
    """
    for name in values:
        if name not in workflow.inputs:
            near = closest(name, workflow.inputs)
            hint = f" Did you mean `{near}`?" if near else ""
            raise UnsupportedParameter(f"Workflow {workflow.name} takes no input of this name.{hint}", param=name)
    return {name: _bound(workflow, name, declared, values.get(name)) for name, declared in workflow.inputs.items()}


def _bound(workflow: Workflow, name: str, declared: Input, value: object) -> object:
    if value is not None:
        return _checked(name, declared, value)
    if declared.required:
        raise RequestError(f"`{name}` is required by workflow {workflow.name}.", param=name, code="missing")
    return declared.default


def _checked(name: str, declared: Input, value: object) -> object:
    if declared.type in OPAQUE:
        return value
    try:
        typed = as_type(value, declared.type)
    except TypeError as error:
        raise RequestError(f"`{name}` {error}.", param=name, code="invalid_type") from None
    except ValueError as error:
        raise RequestError(f"`{name}` {error}.", param=name) from None
    low, high = declared.min, declared.max
    if isinstance(typed, int | float) and ((low is not None and typed < low) or (high is not None and typed > high)):
        raise RequestError(f"`{name}` must lie between {low} and {high}.", param=name, code="out_of_range")
    return typed
