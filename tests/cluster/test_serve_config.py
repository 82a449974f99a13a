"""Serve's configuration, printed from ours."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from lego_serve.cluster.builder import BuilderArgs, build
from lego_serve.cluster.serve_config import serve_config, serve_document
from lego_serve.errors import ConfigError
from lego_serve.planning.node_plans import node_plans
from lego_serve.served_workflows import configured

ROOT = Path(__file__).parents[2]
CONTROLLED = """
models:
  lego-tiny:
    path: builtin:lego-tiny
    max_sequence_length: 0
    controlnets: {edges: {path: "builtin:controlnet", placement: remote}}
"""
WITHOUT_TORCH = """
import sys
for name in ("torch", "diffusers", "transformers", "accelerate", "triton"):
    sys.modules[name] = None
from pathlib import Path
from lego_serve.cluster import builder, gateways
from lego_serve.cluster.serve_config import serve_config
import yaml
for given in yaml.safe_load(serve_config(Path(sys.argv[1])))["applications"]:
    assert builder.build(builder.BuilderArgs(**given["args"])) is not None
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A configuration, with the data of its server beside it."""
    path = tmp_path / "config.yaml"
    path.write_text(f"server: {{data: {tmp_path / 'data'}}}{CONTROLLED}")
    return path


def arguments(path: Path, application: str) -> BuilderArgs:
    """What the builder gets of an application."""
    given = {each["name"]: each["args"] for each in yaml.safe_load(serve_config(path))["applications"]}
    return BuilderArgs(**given[application])


@pytest.mark.parametrize("name", [None, "east"])
def test_it_has_the_applications_that_serve_would_deploy(path: Path, name: str | None, tmp_path: Path) -> None:
    """By the same names, which begin with the server's if it has one; and Serve takes it."""
    if name is not None:
        path.write_text(path.read_text().replace("server: {", f"server: {{name: {name}, "))
    settings, workflows = configured(path)
    document = serve_document(settings, workflows, path)
    names = [each["name"] for each in document["applications"]]  # type: ignore[index]
    assert sorted(names) == sorted(plan.app for plan in node_plans(settings, workflows, tmp_path))
    assert all(each.startswith("east." if name else "lego-tiny.") or "edges" in each for each in names)
    parsed = ServeDeploySchema.model_validate(document)
    assert [each.route_prefix for each in parsed.applications] == [None] * len(names)


def test_what_a_nodes_options_depend_on_changes_its_digest_and_nothing_else_does(path: Path) -> None:
    """So a change of the HTTP side restarts no replica."""
    before = arguments(path, "lego-tiny.vae").digest
    path.write_text(path.read_text().replace("server: {", "server: {max_pending_jobs: 7, "))
    assert arguments(path, "lego-tiny.vae").digest == before
    path.write_text(path.read_text() + "    nodes: {vae: {cpus: 0.25}}\n")
    assert arguments(path, "lego-tiny.vae").digest != before


def test_the_builder_makes_what_a_plan_says(path: Path) -> None:
    """Resources, labels and spread included."""
    where = "{labels: {lego-class: 'in(h100, h200)'}, memory_bytes: 1000000000, max_per_node: 1, gpus: 0.5}"
    path.write_text(path.read_text() + f"    nodes: {{backbone: {where}}}\n")
    deployment = build(arguments(path, "lego-tiny.backbone"))._bound_deployment
    options = deployment.ray_actor_options
    assert (options["num_cpus"], options["num_gpus"], options["memory"]) == (0.5, 0.5, 1_000_000_000)
    assert options["label_selector"] == {"lego-class": "in(h100, h200)"}
    assert deployment._replica_config.max_replicas_per_node == 1


def test_a_node_with_another_configuration_refuses_to_build(path: Path) -> None:
    """One line says which; an application that it lacks is named with those it has."""
    given = arguments(path, "lego-tiny.vae")
    with pytest.raises(ConfigError, match=r"has no application lego-tiny\.other, but lego-tiny\.backbone"):
        build(given.model_copy(update={"application": "lego-tiny.other"}))
    path.write_text(path.read_text() + "    nodes: {vae: {cpus: 0.25}}\n")
    with pytest.raises(ConfigError, match="is not what Serve's configuration was printed from"):
        build(given)


def test_a_server_that_joins_ray_itself_has_no_such_configuration(path: Path) -> None:
    """One line names the key to leave out."""
    path.write_text(path.read_text().replace("server: {", "server: {ray_address: 'a:1', "))
    with pytest.raises(ConfigError, match=r"server\.ray_address.*leave it out here"):
        serve_config(path)


def test_gateways_and_the_builder_need_no_torch(path: Path) -> None:
    """Their image has none."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
