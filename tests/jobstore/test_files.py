"""The files of durable jobs: whole or not there, by attempt, and gone when nobody knows their job."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.durable_jobs.inputs import take_apart
from lego_serve.core.durable_jobs.record import JobStatus
from lego_serve.errors import NotFound, StoreUnavailable
from lego_serve.jobstore.blobs import folder as folder_module
from lego_serve.jobstore.blobs.folder import FolderBlobs
from lego_serve.jobstore.files import ANSWERS, ORPHAN_S, JobFiles
from tests.support.jobstore.jobs import new_job

JOB = new_job(1).id


@pytest.fixture
def files(tmp_path: Path) -> JobFiles:
    """A folder that is not there yet."""
    return JobFiles(FolderBlobs(tmp_path / "data" / "jobs"))


def test_each_attempt_has_images_of_its_own(files: JobFiles) -> None:
    """An owner that wakes up late does not write over the image that counts."""
    files.write_result(JOB, 2, 0, b"second")
    files.write_result(JOB, 1, 0, b"first")
    assert files.read_result(JOB, 2, 0) == b"second"
    with pytest.raises(NotFound):
        files.read_result(JOB, 2, 1)


@given(attempt=st.integers(1, 12), status=st.sampled_from(JobStatus), results=st.sets(st.integers(1, 12)))
def test_what_a_job_has_left_behind_goes_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, attempt: int, status: JobStatus, results: set[int]
) -> None:
    """Images of earlier attempts, finished or not; at an end without images all of them, and those of the request."""
    folder = tmp_path_factory.mktemp("jobs")
    files = JobFiles(FolderBlobs(folder))
    kept, passing = files.write_input(JOB, b"graph"), files.write_input(JOB, b"image")
    inputs = take_apart({"files": {"image": b"image", "graph": b"graph"}}).values
    known = replace(new_job(1), id=JOB, attempt=attempt, status=status)
    for number in results:
        files.write_result(JOB, number, 0, b"image", "webp")
        files.blobs.write(JOB, f"{number}-1.png.0a.tmp", b"half", is_durable=False)
        files.blobs.write(JOB, f"{number}.ckpt", b"checkpoint", is_durable=False)
    files.delete_unneeded(replace(known, request=replace(known.request, inputs=inputs)))
    is_over = status.has_ended and status is not JobStatus.COMPLETED
    left = {number for number in results if number > attempt or (number == attempt and not is_over)}
    names = {f"{number}-0.webp" for number in left} | {f"{number}-1.png.0a.tmp" for number in left}
    names |= {f"{number}.ckpt" for number in results} | {f"{kept}.input"}
    assert {blob.name for blob in files.blobs.list(JOB)} - {f"{passing}.input"} == names
    assert (folder / JOB / f"{passing}.input").exists() == (not status.has_ended)


def test_images_of_the_request_are_known_by_their_sha256(files: JobFiles) -> None:
    """The record names them so."""
    digest = files.write_input(JOB, b"image")
    assert files.read_input(JOB, digest) == b"image"
    with pytest.raises(NotFound):
        files.read_input(JOB, "0" * 64)


def test_results_and_inputs_are_on_the_disk_before_anybody_is_told(
    files: JobFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file and its name are synced, and that of a new folder."""
    synced: list[int] = []
    monkeypatch.setattr(folder_module.os, "fsync", synced.append)
    files.write_input(JOB, b"image")
    assert len(synced) == 3
    files.write_result(JOB, 1, 0, b"image")
    assert len(synced) == 5


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_takes_no_more_says_so_and_leaves_nothing_half_made(
    files: JobFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The caller is to try again later."""

    def refuse(_handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder_module.os, "fsync", refuse)
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
        for file in (tmp_path / "data" / "jobs" / job).iterdir():
            os.utime(file, (changed - 10, changed - 10))
    assert files.delete_orphans(changed + ORPHAN_S - 5, {known}) == [orphan]
    assert sorted(each.name for each in (tmp_path / "data" / "jobs").iterdir()) == sorted([known, young, "job_notes"])


def test_answers_go_when_they_are_old_and_are_no_jobs_orphans(files: JobFiles, tmp_path: Path) -> None:
    """Young ones stay; a name that is gone is said to be."""
    folder = tmp_path / "data" / "jobs" / ANSWERS
    files.delete_answers(0.0)  # before there is any
    for name in ("old", "young"):
        files.write_answer(name, name.encode())
    written = (folder / "young").stat().st_mtime
    os.utime(folder / "old", (written - 10, written - 10))
    files.delete_answers(written - 5)
    assert files.read_answer("young") == b"young"
    with pytest.raises(NotFound):
        files.read_answer("old")
    assert files.orphans(written + 10 * ORPHAN_S) == []


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
