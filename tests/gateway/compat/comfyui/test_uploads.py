"""Uploads as files that all gateways share."""

from pathlib import Path

import pytest

from lego_serve.compat.task import Refused
from lego_serve.errors import NotFound, StoreUnavailable
from lego_serve.gateway.compat.comfyui.uploads import Uploads
from lego_serve.jobstore.blobs.folder import FolderBlobs


def test_an_upload_is_found_by_its_path_and_tenant(tmp_path: Path) -> None:
    """Also by another gateway, and by no other tenant."""
    assert Uploads(FolderBlobs(tmp_path)).add("a", "cat.png", "shop", b"1") == ("cat.png", "shop")
    assert Uploads(FolderBlobs(tmp_path)).read("a", "shop/cat.png") == b"1"
    assert Uploads(FolderBlobs(tmp_path)).names("a") == ["shop/cat.png"]
    assert not Uploads(FolderBlobs(tmp_path)).names("b")
    with pytest.raises(NotFound):
        Uploads(FolderBlobs(tmp_path)).read("b", "shop/cat.png")


def test_other_content_of_a_name_gets_a_number(tmp_path: Path) -> None:
    """Unless it is to overwrite; the same content keeps its name."""
    uploads = Uploads(FolderBlobs(tmp_path))
    names = [uploads.add("a", "cat.png", "", content)[0] for content in (b"1", b"2", b"1", b"2")]
    assert names == ["cat.png", "cat (1).png", "cat.png", "cat (1).png"]
    assert uploads.add("a", "cat.png", "", b"3", is_overwritten=True)[0] == "cat.png"
    assert (uploads.read("a", "cat.png"), len(uploads.names("a"))) == (b"3", 2)


def test_the_oldest_go_where_there_are_too_many(tmp_path: Path) -> None:
    """By number or by bytes; one that is larger than all room stays alone."""
    few = Uploads(FolderBlobs(tmp_path / "few"), max_files=2)
    for number in range(3):
        few.add("a", f"{number}.png", "", b"1")
    assert few.names("a") == ["1.png", "2.png"]
    small = Uploads(FolderBlobs(tmp_path / "small"), max_bytes=5)
    for number in range(3):
        small.add("a", f"{number}.png", "", b"12")
    assert small.names("a") == ["1.png", "2.png"]
    small.add("a", "large.png", "", b"1234567")
    assert small.names("a") == ["large.png"]


@pytest.mark.parametrize("name", ["", "..", "a/\0", "x" * 300])
def test_a_name_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    """It is refused, and nothing is written."""
    with pytest.raises(Refused):
        Uploads(FolderBlobs(tmp_path)).add("a", name, "", b"1")
    assert not Uploads(FolderBlobs(tmp_path)).names("a")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """As an error that may pass."""
    (tmp_path / "uploads").write_text("a file in place of the folder")
    with pytest.raises(StoreUnavailable):
        Uploads(FolderBlobs(tmp_path)).add("a", "cat.png", "", b"1")


class Elsewhere(FolderBlobs):
    """Blobs in which another gateway takes a name while this one writes the bytes."""

    other: bytes | None = None

    def write(self, folder: str, name: str, content: bytes, *, is_durable: bool) -> None:
        """The other is quicker, once."""
        super().write(folder, name, content, is_durable=is_durable)
        other, self.other = self.other, None
        if other is not None:
            Uploads(FolderBlobs(self._root)).add("a", "cat.png", "", other)


def test_two_that_take_a_name_at_once_have_a_number_apart(tmp_path: Path) -> None:
    """In gateways that share no lock; the same content is one upload."""
    for other, names in ((b"2", ["cat (1).png", "cat.png"]), (b"1", ["cat.png"])):
        blobs = Elsewhere(tmp_path / other.decode())
        blobs.other = other
        uploads = Uploads(blobs)
        assert uploads.add("a", "cat.png", "", b"1")[0] == names[0]
        assert uploads.names("a") == names
        assert uploads.read("a", names[0]) == b"1"
        assert uploads.read("a", "cat.png") == other


def test_a_replaced_upload_leaves_nothing(tmp_path: Path) -> None:
    """Of its bytes."""
    uploads = Uploads(FolderBlobs(tmp_path))
    for content in (b"1", b"2"):
        uploads.add("a", "cat.png", "", content, is_overwritten=True)
    assert len(list((tmp_path / "uploads" / "a").iterdir())) == 2
