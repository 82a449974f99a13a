"""The files of templates: whose they are, and that an image is the one that was registered."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lego_serve.core.editing.edit import image_key
from lego_serve.errors import NotFound
from lego_serve.gateway.template_store import Template, TemplateFiles
from tests.support.gateway.images import file_of


def registered(files: TemplateFiles, digit: str, colour: str) -> Template:
    """Register an image of one colour for the tenant ``t``."""
    image = Image.new("RGB", (16, 16), colour)
    key = image_key("t", (16, 16, 3), image.tobytes())
    template = Template("tmpl_" + digit * 24, "name", 1, 16, 16, model="m", workflow="w", image=key)
    return files.add("t", template, file_of(image))


@pytest.mark.parametrize("size", [(16, 16), (4000, 4000)])
def test_another_image_in_its_place_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    """Of the same size or not: it is as none, and never a wrong image."""
    files = TemplateFiles(tmp_path / "kept", 5, 10**6)
    template = registered(files, "1", "red")
    assert np.asarray(files.image("t", template))[0, 0].tolist() == [255, 0, 0]
    (tmp_path / "kept" / "t" / f"{template.id}.png").write_bytes(file_of(Image.new("RGB", size, "blue")))
    for read in (files.image, files.png):
        with pytest.raises(NotFound, match="damaged; remove the template and register"):
            read("t", template)


def test_the_file_of_an_image_is_given_as_it_was_registered(tmp_path: Path) -> None:
    """Byte for byte; where it was removed there is no such template."""
    files = TemplateFiles(tmp_path / "kept", 5, 10**6)
    template = registered(files, "1", "red")
    assert files.png("t", template) == file_of(Image.new("RGB", (16, 16), "red"))
    files.remove("t", template.id)
    with pytest.raises(NotFound, match="There is no template of this id"):
        files.png("t", template)


def test_a_file_that_cannot_be_read_is_no_error_of_the_server(tmp_path: Path) -> None:
    """As with a disk that fails: what lies there now is no file that can be read."""
    files = TemplateFiles(tmp_path / "kept", 5, 10**6)
    template = registered(files, "1", "red")
    file = tmp_path / "kept" / "t" / f"{template.id}.png"
    file.unlink()
    file.mkdir()
    for read in (files.image, files.png):
        with pytest.raises(NotFound, match="damaged"):
            read("t", template)


def test_nobody_else_can_read_templates(tmp_path: Path) -> None:
    """Files are 0600 in folders of 0700."""
    registered(TemplateFiles(tmp_path / "kept", 5, 10**6), "1", "red")
    modes = {
        path.is_dir(): path.stat().st_mode & 0o777 for path in [tmp_path / "kept", *(tmp_path / "kept").rglob("*")]
    }
    assert modes == {True: 0o700, False: 0o600}
