"""Other clients of OpenAI's API than its Python package, against a server of two gateways that share a port."""

import base64
import io
import json
import os
import subprocess
import venv
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from tests.support.e2e.images import PROMPT
from tests.support.e2e.node import installed

pytestmark = pytest.mark.ray
NODE_SDK = "openai@6.49.0"
LITELLM = "litellm==1.110.2"
SUPPORT = Path(__file__).parents[2] / "support" / "e2e"
PATIENCE_S = 120.0


def heard_by(*command: str) -> dict[str, Any]:
    """What a client printed last."""
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # it would fetch prices from the internet
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S, env=environment)
    assert done.returncode == 0, done.stderr
    heard: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return heard


def size_of(file: str) -> tuple[int, int]:
    """The size of an image in base64."""
    return Image.open(io.BytesIO(base64.b64decode(file))).size


def test_openais_node_package_makes_images_and_jobs(server, tmp_path) -> None:
    """It generates, edits, streams, submits, polls and names a refusal, with what OpenAI's Python package gets."""
    package = installed(NODE_SDK, tmp_path)
    heard = heard_by("node", str(SUPPORT / "openai_sdk.mjs"), str(package), server.url)
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    body = {"seed": 5, "num_inference_steps": 60}
    same = client.images.generate(model="lego-tiny", prompt=PROMPT, size="128x96", n=2, extra_body=body)
    assert heard["made"] == heard["result"] == [image.b64_json for image in same.data or ()]
    assert size_of(heard["edited"]) == (128, 96)
    assert [name for name, _ in heard["events"]] == ["image_generation.partial_image"] * 2 + [
        "image_generation.completed"
    ]
    assert heard["events"][-1][1] == heard["made"][0]
    assert (heard["job"]["status"], heard["job"]["attempt"], heard["job"]["images_done"]) == ("completed", 1, 2)
    assert heard["refusal"] == ["BadRequestError", 400, "out_of_range", "n"]


@pytest.fixture(scope="module")
def litellm_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with litellm, which has a hundred requirements of its own; skipped where it cannot be installed."""
    folder = tmp_path_factory.mktemp("litellm")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", LITELLM]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        reason = f"pip cannot install {LITELLM}: {done.stderr[-500:]}"
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    return python


@pytest.mark.long
def test_litellm_makes_images(server, litellm_python, tmp_path) -> None:
    """Its fields beyond OpenAI's reach the server; its edits name the image `image[]` and its file by a whole path."""
    photo = tmp_path / "photo.png"
    Image.new("RGB", (128, 96), (40, 40, 160)).save(photo)
    heard = heard_by(str(litellm_python), str(SUPPORT / "litellm_client.py"), server.url, str(photo))
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    body = {"seed": 5, "num_inference_steps": 8}
    same = client.images.generate(model="lego-tiny", prompt=PROMPT, size="128x96", n=2, extra_body=body)
    assert heard["made"] == [image.b64_json for image in same.data or ()]
    assert size_of(heard["edited"]) == (128, 96)
    assert "`n`" in heard["refusal"]
