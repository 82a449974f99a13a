"""What binding takes from a request and what it refuses."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.workflow.bind import bind
from lego_serve.core.workflow.graph import Input, Workflow
from lego_serve.errors import RequestError, UnsupportedParameter

WORKFLOW = Workflow(
    "w",
    "1",
    {
        "prompt": Input("text", required=True),
        "steps": Input("int", default=20, min=1, max=100),
        "guidance": Input("float", default=4.0, min=0.0, max=20.0),
        "tile": Input("bool", default=False),
        "image": Input("image"),
    },
    {},
    {},
)


def test_defaults_fill_what_is_absent() -> None:
    """Absent values, and those given as None, have their defaults; an optional one without is None."""
    bound = bind(WORKFLOW, {"prompt": "a cat", "steps": None})
    assert bound == {"prompt": "a cat", "steps": 20, "guidance": 4.0, "tile": False, "image": None}


def test_an_int_is_a_float_where_one_is_wanted() -> None:
    """A whole number for a float input arrives as a float."""
    guidance = bind(WORKFLOW, {"prompt": "", "guidance": 7})["guidance"]
    assert (type(guidance), guidance) == (float, 7.0)


def test_bounds_are_inclusive() -> None:
    """Both ends of a range are in it."""
    for steps in (1, 100):
        assert bind(WORKFLOW, {"prompt": "", "steps": steps})["steps"] == steps


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({}, "prompt", "missing"),
        ({"prompt": None}, "prompt", "missing"),
        ({"prompt": 5}, "prompt", "invalid_type"),
        ({"prompt": "\udc00"}, "prompt", "invalid_value"),
        ({"prompt": "", "steps": 0}, "steps", "out_of_range"),
        ({"prompt": "", "steps": 101}, "steps", "out_of_range"),
        ({"prompt": "", "steps": 2.0}, "steps", "invalid_type"),
        ({"prompt": "", "steps": True}, "steps", "invalid_type"),
        ({"prompt": "", "steps": "20"}, "steps", "invalid_type"),
        ({"prompt": "", "guidance": math.nan}, "guidance", "invalid_value"),
        ({"prompt": "", "guidance": -math.inf}, "guidance", "invalid_value"),
        ({"prompt": "", "guidance": 10**400}, "guidance", "invalid_value"),
        ({"prompt": "", "guidance": False}, "guidance", "invalid_type"),
        ({"prompt": "", "tile": 1}, "tile", "invalid_type"),
    ],
)
def test_a_bad_value_is_refused_by_name(given: dict[str, object], param: str, code: str) -> None:
    """The error names the input and says in a word what is wrong with it."""
    with pytest.raises(RequestError) as caught:
        bind(WORKFLOW, given)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert f"`{param}`" in caught.value.message


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    """A name that is no input is an unsupported parameter; the message has the nearest input and not the name."""
    with pytest.raises(UnsupportedParameter, match="Did you mean `steps`") as caught:
        bind(WORKFLOW, {"prompt": "", "step": 4})
    assert caught.value.param == "step"


@given(
    st.dictionaries(
        st.sampled_from([*WORKFLOW.inputs, "other"]),
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())),
    )
)
def test_binding_answers_or_raises_a_request_error(given: dict[str, object]) -> None:
    """Whatever is given, either every input has a value of its type within bounds, or a RequestError says why not."""
    try:
        bound = bind(WORKFLOW, given)
    except RequestError:
        return
    assert bound.keys() == WORKFLOW.inputs.keys()
    assert type(bound["steps"]) is int
    assert 1 <= bound["steps"] <= 100
    assert type(bound["guidance"]) is float
    assert 0 <= bound["guidance"] <= 20
    assert type(bound["prompt"]) is str
    assert type(bound["tile"]) is bool
