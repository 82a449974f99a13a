"""Tags that name an adapter within a prompt, as web interfaces take them."""

import pytest

from lego_serve.core.prompt_tags import adapter_tag


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a cat <lora:stripes:0.8>", "stripes"),
        ("<lora:stripes>", "stripes"),
        ("<LoRA : stripes-r4 : 1 : 0.5>, a cat", "stripes-r4"),
        ("<lyco:style_2:1>", "style_2"),
        ("<hypernet:a:1>", "a"),
        ("<lora:a file/../name:1>", ""),
        ("<lora:>", ""),
        ("a < b, lora: c > d", None),
        ("lora:stripes:0.8", None),
        ("<b>lora:stripes</b>", None),
        ("<lora", None),
        ("", None),
        (None, None),
    ],
)
def test_a_tag_is_found_and_names_its_adapter(text, name) -> None:
    """However it is spelled; a name that is no plain word is not repeated, and other angle brackets are words."""
    assert adapter_tag(text) == name
