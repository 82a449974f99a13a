"""What holds the files of jobs: a folder, an object store in memory or in a folder, and S3, all of one contract."""

import errno
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from obstore.store import LocalStore, MemoryStore

from lego_serve.errors import ConfigError, StoreUnavailable
from lego_serve.jobstore.blobs.folder import FolderBlobs
from lego_serve.jobstore.blobs.objects import ObjectBlobs, open_objects
from lego_serve.jobstore.blobs.port import Blobs
from tests.support.jobstore.s3_server import S3Server, running_s3

KINDS = ("folder", "objects in memory", "objects in a folder", "s3")


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    """An S3 on this machine."""
    with running_s3() as server:
        yield server


@pytest.fixture(params=KINDS)
def blobs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    """One of each kind, with nothing in it."""
    made: dict[str, Callable[[], Blobs]] = {
        "folder": lambda: FolderBlobs(tmp_path / "data" / "jobs"),
        "objects in memory": lambda: ObjectBlobs(MemoryStore()),
        "objects in a folder": lambda: ObjectBlobs(
            LocalStore(tmp_path / "objects", mkdir=True, automatic_cleanup=True)
        ),
    }
    if request.param in made:
        return made[request.param]()
    server: S3Server = request.getfixturevalue("s3")
    server.empty()
    server.name_in(monkeypatch.setenv)
    return open_objects(server.url)


def test_a_file_is_what_was_written_last(blobs: Blobs) -> None:
    """In its folder, of its name."""
    blobs.write("a", "1.png", b"first", is_durable=True)
    blobs.write("a", "1.png", b"second", is_durable=False)
    blobs.write("a", "2.png", b"", is_durable=True)
    blobs.write("b", "1.png", b"another", is_durable=True)
    assert blobs.read("a", "1.png") == b"second"
    assert blobs.read("a", "2.png") == b""
    assert blobs.read("b", "1.png") == b"another"


@pytest.mark.parametrize(("folder", "name"), [("a", "2.png"), ("nowhere", "1.png")])
def test_what_was_not_written_is_not_there(blobs: Blobs, folder: str, name: str) -> None:
    """Nor is its folder."""
    blobs.write("a", "1.png", b"image", is_durable=True)
    with pytest.raises(FileNotFoundError):
        blobs.read(folder, name)
    assert blobs.path(folder, name) is None
    assert list(blobs.list("nowhere")) == []


def test_a_file_is_made_where_there_is_none(blobs: Blobs) -> None:
    """Of two that make it at once one is told no, and both then find the same."""
    assert blobs.create("kept", "secret", b"first")
    assert not blobs.create("kept", "secret", b"second")
    assert blobs.read("kept", "secret") == b"first"


def test_a_folder_lists_what_is_in_it(blobs: Blobs) -> None:
    """With sizes and times; a name that begins like another is another."""
    blobs.write("job_1", "1.ckpt", b"state", is_durable=False)
    blobs.write("job_1", "1-0.png", b"image 0", is_durable=True)
    blobs.write("job_10", "1-0.png", b"another", is_durable=True)
    found = {blob.name: blob for blob in blobs.list("job_1")}
    assert {name: blob.size for name, blob in found.items()} == {"1.ckpt": 5, "1-0.png": 7}
    assert all(blob.written_at > 1.7e9 for blob in found.values())
    assert sorted(blobs.folders()) == ["job_1", "job_10"]


def test_what_is_removed_is_gone_and_the_rest_stays(blobs: Blobs) -> None:
    """A second time does nothing."""
    for name in ("1.ckpt", "2.ckpt", "1-0.png"):
        blobs.write("a", name, b"content", is_durable=True)
    blobs.write("b", "1-0.png", b"content", is_durable=True)
    for _ in range(2):
        blobs.delete("a", ["1.ckpt", "2.ckpt"])
        assert [blob.name for blob in blobs.list("a")] == ["1-0.png"]
    for _ in range(2):
        blobs.delete_folder("a")
        assert list(blobs.list("a")) == []
    assert blobs.folders() == ["b"]


def test_an_object_store_that_does_not_answer_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked a few times for some seconds, and then the caller is told to try again."""
    monkeypatch.setattr("lego_serve.jobstore.blobs.objects.RETRIES", 0)
    S3Server("http://127.0.0.1:9").name_in(monkeypatch.setenv)
    gone = open_objects("s3://jobs/main")
    for ask in (
        lambda: gone.write("a", "b", b"c", is_durable=True),
        lambda: gone.create("a", "b", b"c"),
        lambda: gone.read("a", "b"),
        lambda: gone.list("a"),
        lambda: gone.folders(),
        lambda: gone.delete("a", ["b"]),
    ):
        with pytest.raises(StoreUnavailable, match="does not answer"):
            ask()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO])
def test_a_folder_on_a_disk_that_fails_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Whatever is asked of it: who runs for ever waits for that as for a store, and nothing is taken for gone."""
    blobs = FolderBlobs(tmp_path)
    blobs.write("a", "b", b"c", is_durable=False)

    def fail(*_words: object, **_more: object) -> None:
        raise OSError(number, os.strerror(number))

    for module, name in ((os, "scandir"), (os, "unlink"), (os, "open"), (io, "open"), (os, "stat")):
        monkeypatch.setattr(module, name, fail)
    asked: tuple[Callable[[], object], ...] = (
        lambda: blobs.write("a", "b", b"c", is_durable=True),
        lambda: blobs.create("a", "b", b"c"),
        lambda: blobs.read("a", "b"),
        lambda: blobs.list("a"),
        lambda: blobs.folders(),
        lambda: blobs.delete("a", ["b"]),
        lambda: blobs.delete_folder("a"),
        lambda: blobs.path("a", "b"),
    )
    for ask in asked:
        with pytest.raises(StoreUnavailable, match=errno.errorcode[number]):
            ask()


def test_a_url_of_no_store_is_refused() -> None:
    """The operator is told which."""
    with pytest.raises(ConfigError, match="ftp://here"):
        open_objects("ftp://here")
