"""A server on two machines, one of which is lost."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster.namespaces import why_not
from tests.support.cluster.nodes import Cluster, cluster_of

# Each backbone on a machine of its own; the rest stays where the gateway is.
SETTINGS = """
server: {{host: 0.0.0.0, port: 8000, operations_port: 8001, data: {data}}}
keys_file: keys.yaml
jobs: {{store: none}}
workflows: [lego-tiny]
models:
  lego-tiny:
    path: builtin:lego-tiny
    max_sequence_length: 0
    nodes:
      text_encoder: {{labels: {{lego-class: front}}, cpus: 0.1}}
      backbone: {{replicas: {{min: 2, max: 2}}, max_per_node: 1, cpus: 0.5}}
      vae: {{labels: {{lego-class: front}}, cpus: 0.1}}
"""
BODY = {"prompt": "a red circle", "num_inference_steps": 100, "seed": 1, "size": "128x128"}
pytestmark = [pytest.mark.ray, pytest.mark.alone]
if (reason := why_not()) is not None:
    pytestmark.append(pytest.mark.skip(reason=reason))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two machines on which nothing runs yet."""
    with cluster_of(2, tmp_path, SETTINGS) as made:
        yield made


def test_the_loss_of_a_machine_loses_no_image(cluster: Cluster) -> None:
    """Both backbones compute when one's machine is lost; its image has the same bits from the other.

    It takes over 5 s: two machines start Ray and five nodes.
    """
    cluster.start_head("--num-cpus=2", "--labels=lego-class=front", gateways=True)
    cluster.wait_for_nodes(1)
    cluster.start_node(cluster.hosts[1], "--num-cpus=2")
    cluster.wait_for_nodes(2)
    cluster.submit()
    cluster.wait_until_ready()
    status, before = cluster.ask("/v1/images/generations", BODY)
    assert status == 200, before
    flying = [cluster.fly(BODY) for _ in range(2)]
    cluster.wait("both jobs", lambda: "requests_in_flight 2.0" in cluster.ask("/metrics", port=8001)[1], 30)
    cluster.kill(cluster.hosts[1])
    for each in flying:
        text, _, status_word = each.communicate(timeout=120)[0].rpartition("\n")
        assert status_word == "200", text + cluster.logs()
        assert json.loads(text)["data"][0]["b64_json"] == json.loads(before)["data"][0]["b64_json"]
