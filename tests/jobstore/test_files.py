"""The files of durable jobs: whole or not there, by attempt, and gone when nobody knows their job."""

import errno
import os
from pathlib import Path

import pytest

from lego_serve.core.durable_jobs.checkpoint import JobCheckpoint, LaneKey
from lego_serve.core.jobs.progress import LaneCheckpoint
from lego_serve.errors import NotFound, StoreUnavailable
from lego_serve.jobstore import files as files_module
from lego_serve.jobstore.files import ORPHAN_S, JobFiles
from tests.support.jobstore.jobs import new_job

JOB = new_job(1).id
KEY = LaneKey("denoise", 0)


@pytest.fixture
def files(tmp_path: Path) -> JobFiles:
    """A folder that is not there yet."""
    return JobFiles(tmp_path / "data" / "jobs")


def test_each_attempt_has_images_of_its_own(files: JobFiles) -> None:
    """An owner that wakes up late does not write over the image that counts."""
    files.write_result(JOB, 2, 0, b"second")
    files.write_result(JOB, 1, 0, b"first")
    assert files.read_result(JOB, 2, 0) == b"second"
    with pytest.raises(NotFound):
        files.read_result(JOB, 2, 1)


def test_images_of_the_request_are_known_by_their_sha256(files: JobFiles) -> None:
    """The record names them so."""
    digest = files.write_input(JOB, b"image")
    assert files.read_input(JOB, digest) == b"image"
    with pytest.raises(NotFound):
        files.read_input(JOB, "0" * 64)


def test_a_job_resumes_where_the_latest_whole_checkpoint_is(files: JobFiles, tmp_path: Path) -> None:
    """One that power loss cut off is passed over, and so is one of another job."""
    assert files.latest_checkpoint(JOB) is None
    for attempt in (1, 2, 10):
        files.write_checkpoint(JobCheckpoint(JOB, attempt, "workflow", {KEY: LaneCheckpoint(attempt, b"state")}))
    folder = tmp_path / "data" / "jobs" / JOB
    found = files.latest_checkpoint(JOB)
    assert found is not None
    assert found.lanes == {KEY: LaneCheckpoint(10, b"state")}
    (folder / "10.ckpt").write_bytes((folder / "10.ckpt").read_bytes()[:-1])
    found = files.latest_checkpoint(JOB)
    assert found is not None
    assert found.attempt == 2
    other = new_job(2).id
    files.write_checkpoint(JobCheckpoint(other, 3, "workflow", {}))
    (tmp_path / "data" / "jobs" / other / "3.ckpt").rename(folder / "3.ckpt")
    found = files.latest_checkpoint(JOB)
    assert found is not None
    assert found.attempt == 2
    files.delete_checkpoints(JOB)
    assert files.latest_checkpoint(JOB) is None


def test_results_and_inputs_are_on_the_disk_before_anybody_is_told(
    files: JobFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file and its name are synced; a checkpoint is not, which comes again in seconds."""
    synced: list[int] = []
    monkeypatch.setattr(files_module.os, "fsync", synced.append)
    files.write_checkpoint(JobCheckpoint(JOB, 1, "workflow", {}))
    assert len(synced) == 0
    files.write_input(JOB, b"image")
    assert len(synced) == 2
    files.write_result(JOB, 1, 0, b"image")
    assert len(synced) == 4
    files.write_result(new_job(2).id, 1, 0, b"image")
    assert len(synced) == 7


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_takes_no_more_says_so_and_leaves_nothing_half_made(
    files: JobFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The caller is to try again later."""

    def refuse(_handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files_module.os, "fsync", refuse)
    with pytest.raises(StoreUnavailable, match="is full" if number == errno.ENOSPC else "cannot be written"):
        files.write_result(JOB, 1, 0, b"image")
    assert list((tmp_path / "data" / "jobs" / JOB).iterdir()) == []


@pytest.mark.parametrize("name", ["..", "job_../../etc", "", "job_" + "x" * 32])
def test_what_is_no_job_id_names_no_folder(files: JobFiles, name: str) -> None:
    """An id comes from a URL."""
    with pytest.raises(NotFound):
        files.read_result(name, 1, 0)
    with pytest.raises(NotFound):
        files.delete(name)


def test_old_folders_without_a_record_go(files: JobFiles, tmp_path: Path) -> None:
    """Young ones stay, for their job may be about to be accepted; and so does what is no job's."""
    known, orphan, young = (new_job(number).id for number in range(3))
    for job in (known, orphan, young):
        files.write_input(job, b"image")
    (tmp_path / "data" / "jobs" / "job_notes").mkdir()
    changed = (tmp_path / "data" / "jobs" / young).stat().st_mtime
    for job in (known, orphan):
        os.utime(tmp_path / "data" / "jobs" / job, (changed - 10, changed - 10))
    assert files.delete_orphans(changed + ORPHAN_S - 5, {known}) == [orphan]
    assert sorted(each.name for each in (tmp_path / "data" / "jobs").iterdir()) == sorted([known, young, "job_notes"])


def test_only_this_user_reads_the_files(files: JobFiles, tmp_path: Path) -> None:
    """They are what callers sent and got."""
    files.write_input(JOB, b"image")
    assert (tmp_path / "data" / "jobs" / JOB).stat().st_mode & 0o077 == 0


def test_deleting_a_job_leaves_nothing(files: JobFiles, tmp_path: Path) -> None:
    """Also where there was nothing."""
    files.write_input(JOB, b"image")
    files.delete(JOB)
    files.delete(JOB)
    assert list((tmp_path / "data" / "jobs").iterdir()) == []
