"""Which paths lie on network file systems."""

from pathlib import Path

import pytest

from lego_serve.errors import ConfigError
from lego_serve.jobstore import sqlite
from lego_serve.jobstore.network_folders import file_system_of, is_network
from lego_serve.jobstore.sqlite import SqliteJobStore

MOUNTS = "\n".join(
    [
        "/dev/vda / ext4 rw 0 0",
        "server:/export /mnt/shared nfs4 rw 0 0",
        "tmpfs /mnt/shared/local tmpfs rw 0 0",
        "//nas/a /mnt/with\\040space cifs rw 0 0",
    ]
)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/jobs.db", "ext4"),
        ("/mnt/shared/jobs.db", "nfs4"),
        ("/mnt/shared-not/jobs.db", "ext4"),
        ("/mnt/shared/local/jobs.db", "tmpfs"),
        ("/mnt/with space/jobs.db", "cifs"),
    ],
)
def test_the_mount_that_holds_a_path_says_its_kind(tmp_path: Path, path: str, kind: str) -> None:
    """The innermost one, whose name may have spaces."""
    (tmp_path / "mounts").write_text(MOUNTS)
    assert file_system_of(Path(path), tmp_path / "mounts") == kind
    assert is_network(kind) == (kind in ("nfs4", "cifs"))


def test_where_no_mounts_are_listed_nothing_is_said(tmp_path: Path) -> None:
    """As on another system than Linux."""
    assert not is_network(file_system_of(tmp_path, tmp_path / "missing"))


def test_a_database_on_a_network_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says where it lies and what is needed."""
    monkeypatch.setattr(sqlite, "file_system_of", lambda _path: "nfs4")
    with pytest.raises(ConfigError, match="lies on nfs4; it must lie on a disk of this machine"):
        SqliteJobStore(tmp_path / "jobs.db", lambda: 0.0, 15.0)
