"""The errors: what they carry, and that they carry it across process boundaries."""

import pickle

import pytest

from lego_serve.errors import (
    CapacityError,
    DeadlineExceeded,
    LegoError,
    NodeUnavailable,
    NotFound,
    RequestError,
    StoreUnavailable,
    UnsupportedParameter,
)


def subclasses(cls: type[LegoError]) -> list[type[LegoError]]:
    ours = [s for s in cls.__subclasses__() if s.__module__ == "lego_serve.errors"]
    return [cls, *(each for sub in ours for each in subclasses(sub))]


@pytest.mark.parametrize("cls", subclasses(LegoError))
def test_every_error_survives_pickling(cls: type[LegoError]) -> None:
    """Class, message, parameter and code arrive whole on the far side."""
    error = pickle.loads(pickle.dumps(cls("It broke.", param="steps", code="odd")))
    assert type(error) is cls
    assert (str(error), error.message, error.param, error.code) == ("It broke.", "It broke.", "steps", "odd")
    assert error.status == cls.status


def test_what_a_subclass_adds_survives_too() -> None:
    """When to come back is not lost on the way."""
    assert pickle.loads(pickle.dumps(CapacityError("Full.", retry_after_s=7.5))).retry_after_s == 7.5


@pytest.mark.parametrize("cls", subclasses(LegoError))
def test_an_error_has_the_code_of_its_class(cls: type[LegoError]) -> None:
    """Without a code of its own an error has its class's, before and after pickling."""
    assert cls("x").code == pickle.loads(pickle.dumps(cls("x"))).code == cls.code


def test_status_says_whose_fault_it_is() -> None:
    """The caller's faults are 4xx and ours 5xx; only what may succeed later is retryable."""
    assert {RequestError.status, UnsupportedParameter.status} == {400}
    assert (NotFound.status, CapacityError.status, DeadlineExceeded.status, LegoError.status) == (404, 429, 504, 500)
    assert {cls for cls in subclasses(LegoError) if cls.retryable} == {
        CapacityError,
        NodeUnavailable,
        StoreUnavailable,
    }
    assert NodeUnavailable.status == 503
