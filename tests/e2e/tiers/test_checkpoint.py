"""A tier on a checkpoint, served: its image is the student's own, whoever is asked for it."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path

import httpx2
import numpy as np
import pytest

from lego_serve.core.tiers.book import TierBook
from lego_serve.models.tier_files import write_book
from lego_serve.models.weights_digest import denoiser_digest
from lego_serve.zoo.export import WEIGHTS
from tests.support.e2e.images import PROMPT, pixels
from tests.support.e2e.servers import Server, running
from tests.support.students.derived import derive
from tests.support.students.tiers import TURBO, with_turbo

pytestmark = [pytest.mark.ray, pytest.mark.long]  # a server of its own; tests/serving/nodes has the bits without one
NODES = "{text_encoder: {cpus: 0.1}, backbone: {cpus: 0.2}, vae: {cpus: 0.1}}"
CONFIG = """
server: {{host: 127.0.0.1, port: 8000, gateways: 1}}
models:
  lego-tiny: {{path: "{folder}/base", checkpoint_tiers: true, max_sequence_length: 0, nodes: {nodes}}}
  student: {{path: "{folder}/student", max_sequence_length: 0, nodes: {nodes}}}
workflows: [lego-tiny, lego-tiny-img2img, student.yaml]
"""


@pytest.fixture(scope="module")
def server_of_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model with the tier, and its student as a model of its own."""
    folder: Path = tmp_path_factory.mktemp("tiers")
    base = Path(shutil.copytree(WEIGHTS, folder / "base"))
    student = derive(base, folder / "student")
    with_turbo(base, student)
    own = TierBook((replace(TURBO, steps=4, checkpoint=None),), weights=denoiser_digest(student))
    write_book(own, student / "tiers.json")
    text = (resources.files("lego_serve") / "workflows" / "lego-tiny.yaml").read_text()
    (folder / "student.yaml").write_text(text.replace("lego-tiny", "student"))
    with running(folder, 1, text=CONFIG.format(folder=folder, nodes=NODES)) as started:
        yield started


def ask(server: Server, **body: object) -> httpx2.Response:
    """One generation, however it ends."""
    request = {"prompt": PROMPT, "seed": 3} | body
    return httpx2.post(f"{server.url}/v1/images/generations", json=request, timeout=300)


def test_the_tier_draws_the_students_image(server_of_two: Server) -> None:
    """At its four evaluations; all steps of the model itself draw another, and what was not tuned is refused."""
    alone = ask(server_of_two, model="student", num_inference_steps=4, guidance_scale=1, tier="turbo").json()
    ours = ask(server_of_two, model="lego-tiny", num_inference_steps=20, guidance_scale=4, tier="turbo").json()
    image = pixels(ours["data"][0])
    assert np.array_equal(image, pixels(alone["data"][0]))
    assert (ours["lego"]["tier"]["name"], ours["lego"]["tier"]["evaluations"]) == ("turbo", 4)
    exact = ask(server_of_two, model="lego-tiny", num_inference_steps=20).json()
    assert not np.array_equal(image, pixels(exact["data"][0]))
    refused = ask(server_of_two, model="lego-tiny", tier="turbo", negative_prompt="blue")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tier")
