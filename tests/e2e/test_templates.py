"""Templates outlive the server that they were registered with."""

from pathlib import Path

import httpx2
import numpy as np
import pytest

from tests.support.e2e.images import mask_file, png
from tests.support.e2e.servers import running

pytestmark = [pytest.mark.ray, pytest.mark.long]
SMALL = """
server: {gateways: 1}
templates: {folder: kept}
models:
  lego-tiny:
    path: "builtin:lego-tiny"
    max_sequence_length: 0
    nodes: {text_encoder: {cpus: 0.1}, backbone: {cpus: 0.5}, vae: {cpus: 0.1}}
workflows: [lego-tiny, lego-tiny-edit]
"""


def test_a_template_outlives_its_server(tmp_path: Path) -> None:
    """The next one over the same folder has it as it was, and edits it."""
    pixels = np.full((128, 128, 3), 90, np.uint8)
    with running(tmp_path, gateways=1, text=SMALL) as server:
        answer = httpx2.post(f"{server.url}/v1/templates", files={"image": png(pixels)}, timeout=60)
        assert answer.status_code == 201
    with running(tmp_path, gateways=1, text=SMALL) as server:
        assert httpx2.get(f"{server.url}/v1/templates", timeout=60).json()["data"] == [answer.json()]
        mask = np.zeros((128, 128), dtype=bool)
        mask[:32, :32] = True
        data = {"prompt": "a red circle", "template": answer.json()["id"]}
        files = {"mask": mask_file(mask)}
        edit = httpx2.post(f"{server.url}/v1/images/edits", files=files, data=data, timeout=120)
        assert edit.status_code == 200
