"""Names and paths of adapters' files: what is an adapter, what is told of, and that no path leads out of its root."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.adapter_files import (
    ADAPTER_ID,
    FolderEntry,
    adapter_id_of,
    passed_over,
    path_parts,
    plain_id,
    shown,
)
from lego_serve.errors import RequestError

NAMES = st.text(min_size=1, max_size=80).filter(lambda name: "/" not in name and "\0" not in name)


@given(name=NAMES, is_link=st.booleans(), is_folder=st.booleans(), has_weights=st.booleans())
def test_a_safetensors_file_is_an_adapter_or_told_of(
    name: str, is_link: bool, is_folder: bool, has_weights: bool
) -> None:
    """Never both and never neither, whatever its name; what is told is text, and as much as one line."""
    files = ("pytorch_lora_weights.safetensors",) if has_weights and not is_link else ()
    entry = FolderEntry(name if is_folder else f"{name}.safetensors", is_link, is_folder, files if is_folder else ())
    told = passed_over(entry)
    is_meant = not is_folder or has_weights or is_link
    assert (adapter_id_of(entry) is not None) + bool(told) == is_meant
    for file in told:
        (file.path + file.reason).encode()
        assert len((file.path + file.reason).splitlines()) == 1


@given(path=st.text())
def test_a_registered_path_stays_under_its_root(path: str) -> None:
    """Every part is a name."""
    try:
        parts = path_parts(path)
    except RequestError:
        return
    assert "/".join(parts) == path
    assert not {"", ".", ".."} & set(parts)
    assert PurePosixPath("/root", *parts).is_relative_to("/root")
    assert not any(ord(c) < 32 for c in path)


@pytest.mark.parametrize(
    "path",
    [
        "a b.safetensors",
        "Studio (Anime) [v2].safetensors",
        "a/b/c.v1.5.safetensors",
        "é.SAFETENSORS",
        "👩\u200d🎨.safetensors",
    ],
)
def test_a_path_of_printable_names_may_be_registered(path: str) -> None:
    """Of any alphabet."""
    assert path_parts(path) == tuple(path.split("/"))


@pytest.mark.parametrize(
    "path",
    [
        "../a.safetensors",
        "a/../../b.safetensors",
        "/etc/a.safetensors",
        "a//b.safetensors",
        "./a.safetensors",
        "a\0.safetensors",
        "a\n.safetensors",
        "a\u202e.safetensors",
        "a\udcff.safetensors",
        "x" * 256 + ".safetensors",
        "/".join("abcdefgh") + "/i.safetensors",
        "a.ckpt",
        "",
    ],
)
def test_any_other_path_is_refused(path: str) -> None:
    """Before a file system sees it."""
    with pytest.raises(RequestError) as refused:
        path_parts(path)
    assert refused.value.param == "path"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("PixelArt_XL.safetensors", "pixelart_xl"),
        ("more/Style (v1.5).SAFETENSORS", "style-v1-5"),
        ("naïve-strich.safetensors", "naive-strich"),
        ("Some Style/pytorch_lora_weights.safetensors", "some-style"),
        ("墨絵.safetensors", ""),
    ],
)
def test_a_plain_name_is_near_the_files(path: str, name: str) -> None:
    """It is of plain characters, without the folder and the ending."""
    assert plain_id(path) == name


@given(path=st.text(max_size=300))
def test_a_suggested_name_is_an_id(path: str) -> None:
    """Or there is none."""
    assert plain_id(path) == "" or ADAPTER_ID.fullmatch(plain_id(path))
    assert shown(path).isprintable() or any(c.isspace() or c == "\u200d" for c in shown(path))
