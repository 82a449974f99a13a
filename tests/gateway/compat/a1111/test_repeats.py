"""`Idempotency-Key` with txt2img and img2img: images are made once, however large the answer, and given again."""

import asyncio
import base64
import errno
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lego_serve.core.jobs.job import GeneratedImage, Job, JobProgress, JobResult
from lego_serve.core.jobs.ports import CheckpointKeeper
from lego_serve.gateway.jobs.once import MAX_NOTE_BYTES
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.jobstore.files import ANSWERS
from tests.support.gateway.client import error_of, file_of
from tests.support.gateway.durable import Cluster, Gateway
from tests.support.gateway.runner import FakeRunner

TXT2IMG, IMG2IMG = "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
KEY = {"idempotency-key": "once"}
BODY = {"prompt": "a", "width": 256, "height": 256, "batch_size": 4, "steps": 2}


class NoisyRunner(FakeRunner):
    """Makes noise, which no file format shortens, other each time, and of 512 pixels a side whatever was asked for."""

    async def run(
        self,
        job: Job,
        tell: Callable[[JobProgress], None] | None = None,
        checkpoints: CheckpointKeeper | None = None,
    ) -> JobResult:
        """As many images as are asked for."""
        result = await super().run(job, tell, checkpoints)
        made = tuple(GeneratedImage(512, 512, random.randbytes(3 * 512**2), each.seed) for each in result.images)
        return replace(result, images=made)


@pytest.fixture
def cluster(settings: GatewaySettings, tmp_path: Path) -> Cluster:
    """One store and one folder."""
    return Cluster(tmp_path / "jobs", settings)


def kept(cluster: Cluster) -> list[Path]:
    """The files of kept answers."""
    return sorted((cluster.folder / ANSWERS).glob("*"))


async def make(gateway: Gateway, path: str = TXT2IMG, **changed: object) -> tuple[int, bytes, str | None]:
    """Ask for images; return status, body, and whether the answer is an earlier one's."""
    answer = await gateway.client.post(path, json=BODY | changed, headers=KEY)
    return answer.status_code, answer.content, answer.headers.get("idempotency-replayed")


async def test_images_are_made_once_and_the_answer_outlives_the_gateway(cluster: Cluster) -> None:
    """Four images of 512 pixels are megabytes; the next gateway gives the same bytes, and another body gets 422."""
    runner = NoisyRunner()
    async with cluster.gateway(runner) as gateway:
        first, second = await make(gateway), await make(gateway)
        assert (first[0], first[2], second) == (200, None, (200, first[1], "true"))
        assert len(first[1]) > 4 * MAX_NOTE_BYTES
        other = await gateway.client.post(TXT2IMG, json=BODY | {"prompt": "b"}, headers=KEY)
        assert error_of(other)[:2] == (422, "idempotency_key_reused")
    async with cluster.gateway(runner) as gateway:
        assert await make(gateway) == second
    assert len(runner.jobs) == 1
    [file] = kept(cluster)
    assert file.read_bytes() == first[1]
    assert file.stat().st_mode & 0o077 == 0


async def test_an_image_made_from_another_is_made_once_as_well(cluster: Cluster) -> None:
    """Also where both requests come at once: the second waits."""
    source = base64.b64encode(file_of(9)).decode()
    async with cluster.gateway(NoisyRunner()) as gateway:
        both = [make(gateway, IMG2IMG, init_images=[source], denoising_strength=0.5) for _ in range(2)]
        one, other = await asyncio.gather(*both)
        assert (one[0], one[1]) == (other[0], other[1]) == (200, other[1])
        assert {one[2], other[2]} == {None, "true"}
        assert len(gateway.runner.jobs) == 1


async def test_an_answer_whose_file_is_gone_is_made_anew_at_the_next_try(cluster: Cluster) -> None:
    """Whoever repeats a request is told so once, rather than for a day."""
    async with cluster.gateway(NoisyRunner()) as gateway:
        assert (await make(gateway))[0] == 200
        kept(cluster)[0].unlink()
        gone = await gateway.client.post(TXT2IMG, json=BODY, headers=KEY)
        assert error_of(gone)[:2] == (503, "store_unavailable")
        assert (await make(gateway))[0::2] == (200, None)
        assert len(gateway.runner.jobs) == 2


async def test_a_folder_that_is_full_takes_no_answer_away(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images come, and are made again by a repeat, which does not wait for a request that has ended."""

    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with cluster.gateway(NoisyRunner()) as gateway:
        monkeypatch.setattr(os, "fsync", refuse)
        for count in (1, 2):
            assert (await make(gateway))[0::2] == (200, None)
            assert len(gateway.runner.jobs) == count
