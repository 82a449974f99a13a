"""The bodies of ComfyUI's routes."""

import pytest

from lego_serve.compat.comfyui.bodies import ClearBody, InterruptBody, read_prompt_body
from lego_serve.compat.comfyui.faults import PromptRefused


def test_a_client_may_bring_its_own_id() -> None:
    """ComfyUI's proxy does; fields that are not known pass."""
    body = read_prompt_body({"prompt": {"1": {}}, "prompt_id": "a-1_B", "client_id": "me", "number": -1, "other": 1})
    assert (body.prompt_id, body.client_id, body.number, body.extra_data) == ("a-1_B", "me", -1.0, {})


@pytest.mark.parametrize(
    ("said", "is_first"), [({}, False), ({"number": 5}, False), ({"number": -1}, True), ({"front": True}, True)]
)
def test_a_prompt_goes_first_where_its_number_is_below_zero(said: dict[str, object], is_first: bool) -> None:
    """As one does with `front`, of which ComfyUI makes such a number."""
    assert read_prompt_body({"prompt": {"1": {}}} | said).goes_first == is_first


@pytest.mark.parametrize("body", [None, [], {}, {"prompt": None}, {"prompt": "x"}])
def test_a_body_without_a_graph_is_no_prompt(body: object) -> None:
    """The word is ComfyUI's."""
    with pytest.raises(PromptRefused) as caught:
        read_prompt_body(body)
    assert caught.value.error["type"] == "no_prompt"


@pytest.mark.parametrize("prompt_id", ["", "a/b", "x" * 65, "a\n", 5])
def test_an_id_that_is_no_word_is_refused(prompt_id: object) -> None:
    """It becomes a part of urls and file names."""
    with pytest.raises(PromptRefused, match="prompt_id"):
        read_prompt_body({"prompt": {}, "prompt_id": prompt_id})


def test_clearing_and_interrupting_need_nothing() -> None:
    """An empty body means all, or the one that runs."""
    assert ClearBody.model_validate({}).delete == []
    assert InterruptBody.model_validate({"prompt_id": "p"}).prompt_id == "p"
