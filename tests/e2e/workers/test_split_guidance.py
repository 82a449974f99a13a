"""An image alone on two replicas: the bits of one, also where either of them is killed on the way."""

import os
import signal
import threading
from collections.abc import Iterator

import httpx2
import numpy as np
import pytest

from lego_serve.engine.offline import OfflinePipeline
from lego_serve.models.registry import ModelSpec
from tests.support.e2e.asked import STEPS, ask
from tests.support.e2e.images import PROMPT, pixels
from tests.support.e2e.servers import Server, backbones, running, wait_for_two

# A server of its own; tests/engine/sharing/test_branches.py is quick.
pytestmark = [pytest.mark.ray, pytest.mark.long]
CONFIG = """
server: {host: 127.0.0.1, port: 8000, gateways: 1}
models:
  lego-tiny:
    path: builtin:lego-tiny
    max_sequence_length: 0
    nodes:
      text_encoder: {cpus: 0.1}
      backbone: {replicas: {min: 2, max: 2}, cpus: 0.4, split_guidance: true}
      vae: {cpus: 0.1}
"""
SEED, SIDE, GUIDANCE = 11, 256, 4.0
WHOLE = {"size": f"{SIDE}x{SIDE}", "guidance_scale": GUIDANCE}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server."""
    with running(tmp_path_factory.mktemp("split"), 1, text=CONFIG) as started:
        yield started


@pytest.fixture(scope="module")
def wanted() -> np.ndarray:
    """The image as one engine makes it in one process."""
    local = OfflinePipeline.load(ModelSpec("lego-tiny", "builtin:lego-tiny", max_sequence_length=0))
    return local.generate([PROMPT], width=SIDE, height=SIDE, steps=STEPS, guidance=GUIDANCE, seeds=[SEED])[0].numpy()


def test_an_image_alone_is_made_by_two_replicas_with_the_bits_of_one(split: Server, wanted: np.ndarray) -> None:
    """The answer says in how many steps."""
    answers = [ask(split.url, seed=SEED, **WHOLE) for _ in range(2)]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert np.array_equal(pixels(answer.json()["data"][0]), wanted)
    assert max(answer.json()["lego"].get("steps_split", 0) for answer in answers) > 0


@pytest.mark.parametrize("which", [0, 1])
def test_either_replica_may_be_killed_while_they_share_an_image(split: Server, wanted: np.ndarray, which: int) -> None:
    """The one that has it, or the one that helps: it is answered, with its bits."""
    wait_for_two(split)
    ask(split.url, seed=SEED, **WHOLE)
    found: list[httpx2.Response] = []
    asking = threading.Thread(target=lambda: found.append(ask(split.url, seed=SEED, **WHOLE)))
    asking.start()
    asking.join(1.5)
    assert asking.is_alive(), "the image was made before a replica could be killed"
    os.kill(sorted(backbones(split))[which], signal.SIGKILL)
    asking.join()
    assert found[0].status_code == 200, found[0].text
    assert np.array_equal(pixels(found[0].json()["data"][0]), wanted)
