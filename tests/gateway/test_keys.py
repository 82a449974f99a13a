"""Keys of a file that changes while the gateway runs."""

import logging
from hashlib import sha256
from pathlib import Path

import pytest

from lego_serve.errors import ConfigError
from lego_serve.gateway.settings import ApiKey, Keys, KeysFile
from tests.support.clocks import HandClock


def key(word: str) -> ApiKey:
    """A user's key."""
    return ApiKey(sha256(word.encode()).hexdigest(), word, is_admin=False)


@pytest.fixture
def file(tmp_path: Path) -> KeysFile:
    """One word a line, each a key."""
    path = tmp_path / "keys"
    path.write_text("old")

    def read() -> tuple[ApiKey, ...]:
        if not path.exists() or not path.read_text():
            raise ConfigError("keys: has none")
        return tuple(key(word) for word in path.read_text().split())

    return KeysFile(path, read)


def test_a_changed_file_is_read_again_within_seconds(file: KeysFile, tmp_path: Path) -> None:
    """A key that was added opens, one that was taken out no longer does; also when the file is exchanged."""
    clock = HandClock()
    keys = Keys(file.read(), file, clock)
    (tmp_path / "next").write_text("new")
    (tmp_path / "next").replace(file.path)
    assert keys.caller("new") is None
    clock.now_s += 2
    caller = keys.caller("new")
    assert caller is not None
    assert (caller.tenant, keys.caller("old")) == ("new", None)


@pytest.mark.parametrize("text", ["", None])
def test_a_file_that_is_wrong_or_gone_changes_nothing(
    file: KeysFile, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is let in or shut out by it, and one line of the log says so."""
    clock = HandClock()
    keys = Keys(file.read(), file, clock)
    file.path.unlink() if text is None else file.path.write_text(text)
    with caplog.at_level(logging.ERROR, "lego_serve.gateway"):
        for _ in range(3):
            clock.now_s += 2
            assert keys.caller("old") is not None
            assert keys.are_needed
    assert [record.message for record in caplog.records] == ["the keys stay as they were: keys: has none"]
