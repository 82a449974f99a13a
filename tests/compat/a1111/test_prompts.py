"""Adapters that stand in prompts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.compat.a1111.prompts import take_loras
from lego_serve.compat.task import Lora, Refused


@pytest.mark.parametrize(
    ("prompt", "text", "loras"),
    [
        ("a cat", "a cat", ()),
        ("a <lora:stripes:0.8> cat", "a  cat", (Lora("stripes", 0.8),)),
        ("<lora:stripes>", "", (Lora("stripes"),)),
        ("<lora:my style v1.5:-1>", "", (Lora("my style v1.5", -1.0),)),
        ("<lyco:old:.5>", "", (Lora("old", 0.5),)),
        ("<lora:a:0.5> x <lora:b:1e-1>", " x ", (Lora("a", 0.5), Lora("b", 0.1))),
        ("<lora:a:0.5><lora:a:0.25>", "", (Lora("a", 0.75),)),
        ("(red <lora:a:0.5>:1.2), ((big))", "(red :1.2), ((big))", (Lora("a", 0.5),)),
        (r"a \(cat\) <lora:a:0.5>", r"a \(cat\) ", (Lora("a", 0.5),)),
        (r"\<lora:a:0.5>", "\\", (Lora("a", 0.5),)),
        ("a < b <lora:a:1", "a < b <lora:a:1", ()),
        ("<3 <b:x> <lora>", "<3 <b:x> <lora>", ()),
        ("<<lora:a:1>>", "<>", (Lora("a"),)),
        ("<lora:a:0.5:0.5>", "", (Lora("a", 0.5),)),
        ("<lora:a:te=0.5:unet=0.5:dyn=8>", "", (Lora("a", 0.5),)),
    ],
)
def test_tags_are_taken_out_and_name_adapters(prompt: str, text: str, loras: tuple[Lora, ...]) -> None:
    """Wherever they stand; as in A1111 a backslash does not save one, and what is no tag stays text."""
    assert take_loras(prompt) == (text, loras, ())


def test_another_scale_for_text_encoders_is_said() -> None:
    """There is one scale here: that of the denoiser."""
    _, loras, replaced = take_loras("<lora:a:1:0.5> <lora:b:unet=2>")
    assert loras == (Lora("a", 0.5), Lora("b", 2.0))
    assert replaced == (
        ("<lora:a:1:0.5> on text encoders", "0.5"),
        ("<lora:b:unet=2> on text encoders", "2"),
    )


@pytest.mark.parametrize(
    "prompt",
    [
        "<lora:a:x>",
        "<lora:a:>",
        "<lora:a:nan>",
        "<lora:a:inf>",
        "<lora::1>",
        "<lora: :1>",
        "<lora:a:1:1:1:1>",
        "<lora:a:strength=1>",
        "<hypernet:a:1>",
    ],
)
def test_a_bad_tag_is_refused_with_its_text(prompt: str) -> None:
    """Rather than be left out of the image, unseen."""
    with pytest.raises(Refused) as caught:
        take_loras(prompt)
    assert prompt in caught.value.message
    assert caught.value.field == "prompt"


def test_switched_off_tags_are_taken_out_unread() -> None:
    """`disable_extra_networks` says so."""
    assert take_loras("a <lora:b:x> <hypernet:c:1>", are_used=False) == ("a  ", (), ())


def test_a_hundred_tags_are_enough() -> None:
    """More are no request of a person."""
    with pytest.raises(Refused, match="101 adapters"):
        take_loras("<lora:a:1>" * 101)


@given(st.text(alphabet="<>:lora=.1x(\\ ", max_size=60))
def test_any_text_is_read_or_refused(prompt: str) -> None:
    """What is left has no tag of an adapter in it, unless taking one out has made another."""
    try:
        text, loras, _ = take_loras(prompt)
    except Refused:
        return
    assert len(text) <= len(prompt)
    assert bool(loras) <= ("<lora:" in prompt)
