"""Names of files: what prompts save, and what clients upload."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.compat.comfyui.paths import input_names, is_plain_path, job_of, saved_files, upload_answer, upload_name
from lego_serve.compat.task import Refused, SavedAs

IDS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@given(st.text(min_size=1, max_size=30).filter(is_plain_path), IDS, st.integers(1, 10))
def test_the_name_of_a_saved_file_leads_back_to_its_prompt(prefix: str, prompt_id: str, count: int) -> None:
    """Whatever the prefix, each file has the id and the index of its image."""
    files = saved_files(SavedAs("9", prefix), prompt_id, count)
    assert [job_of(str(file["filename"])) for file in files] == [(prompt_id, index) for index in range(count)]
    assert all("/" not in str(file["filename"]) for file in files)


@pytest.mark.parametrize("name", ["", "a.png", "x_00000_.id.png", "x_00001_.id.jpg", "x_00001_.i/d.png"])
def test_another_name_leads_to_no_prompt(name: str) -> None:
    """An upload is looked for elsewhere."""
    assert job_of(name) is None


def test_an_upload_keeps_its_name_or_gets_a_number() -> None:
    """The same content is the same upload; other content overwrites only where the client says so."""
    kept = {"in/a.png": "1", "in/a (1).png": "2"}
    assert upload_name("a.png", "", "1", kept) == ("a.png", "")
    assert upload_name("C:\\photos\\a.png", "in", "1", kept) == ("a.png", "in")
    assert upload_name("a.png", "/in/", "2", kept) == ("a (1).png", "in")
    assert upload_name("a.png", "in", "3", kept) == ("a (2).png", "in")
    assert upload_name("a.png", "in", "3", kept, is_overwritten=True) == ("a.png", "in")
    assert upload_answer("a.png", "in") == {"name": "a.png", "subfolder": "in", "type": "input"}
    assert input_names(["b", "A"]) == ["A", "b"]


@pytest.mark.parametrize(
    ("name", "folder"),
    [("", ""), ("..", ""), ("a.png", ".."), ("a.png", "x/../y"), ("a\n.png", ""), ("a:b", ""), ("x" * 201, "")],
)
def test_a_name_that_leads_elsewhere_is_refused(name: str, folder: str) -> None:
    """Nor may it have what no file system takes."""
    with pytest.raises(Refused):
        upload_name(name, folder, "1", {})
