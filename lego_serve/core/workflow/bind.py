"""Request values against a workflow's declared inputs: names, types, bounds, defaults."""

from collections.abc import Mapping

from lego_serve.core.suggest import closest
from lego_serve.core.workflow.graph import Input, Workflow
from lego_serve.core.workflow.types import as_type
from lego_serve.errors import RequestError, UnsupportedParameter

OPAQUE = ("image", "adapters", "controls", "edit")  # who made the value of them knows that it is one


def bind(workflow: Workflow, given: Mapping[str, object]) -> dict[str, object]:
    """The values of every input; one that is absent or None has its default, or None.

    Raises UnsupportedParameter for a name the workflow does not declare and RequestError for a value
    that is missing, of another type, or out of bounds; ``param`` names the input.
    """
    for name in given:
        if name not in workflow.inputs:
            near = closest(name, workflow.inputs)
            hint = f" Did you mean `{near}`?" if near else ""
            raise UnsupportedParameter(f"Workflow {workflow.name} takes no input of this name.{hint}", param=name)
    return {name: _bound(workflow, name, declared, given.get(name)) for name, declared in workflow.inputs.items()}


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
        fitting = as_type(value, declared.type)
    except TypeError as error:
        raise RequestError(f"`{name}` {error}.", param=name, code="invalid_type") from None
    except ValueError as error:
        raise RequestError(f"`{name}` {error}.", param=name) from None
    low, high = declared.min, declared.max
    if isinstance(fitting, int | float) and (
        (low is not None and fitting < low) or (high is not None and fitting > high)
    ):
        raise RequestError(f"`{name}` must lie between {low} and {high}.", param=name, code="out_of_range")
    return fitting
