"""A tier on a checkpoint as a configuration deploys it: one more backbone, and nothing that it was not tuned with."""

import shutil
from pathlib import Path

import pytest

from lego_serve.core.scheduling.autoscaling import ReplicaBounds
from lego_serve.core.tiers.book import TierBook
from lego_serve.deployment import needed_nodes, tier_book
from lego_serve.errors import ConfigError, RequestError
from lego_serve.gateway_process import _gateway_settings
from lego_serve.models.weights_size import weights_bytes
from lego_serve.planning.node_plans import node_plans
from lego_serve.served_workflows import configured
from lego_serve.serving.nodes.options import (
    BackboneOptions,
    NodePlace,
    NodePlan,
    TemplateOptions,
    WorkerOptions,
)
from tests.support.students.derived import derive
from tests.support.students.tiers import with_turbo

TURBO = "lego-tiny", "backbone-turbo"


@pytest.fixture
def folders(tiny_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A base with the tier, and its student."""
    base = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    student = derive(base, tmp_path / "student")
    with_turbo(base, student)
    return base, student


def configure(folders: tuple[Path, Path], more: str = ", checkpoint_tiers: true", rest: str = "") -> Path:
    """A configuration of lego-tiny from a folder, with adapters and more keys."""
    path = folders[0].parent / "config.yaml"
    adapters = f"adapters: {{roots: ['{folders[0].parent}']}}"
    path.write_text(f"models: {{lego-tiny: {{path: '{folders[0]}', dtype: float32, {adapters}{more}}}}}\n{rest}")
    return path


def plans_of(path: Path) -> dict[str, NodePlan]:
    """The deployments of a configuration."""
    return {plan.app: plan for plan in node_plans(*configured(path), path.parent)}


def test_it_is_one_more_backbone(folders: tuple[Path, Path]) -> None:
    """Of the student's weights under the model's name, beside the nodes that the model has anyway."""
    path = configure(
        folders, ", checkpoint_tiers: true, nodes: {backbone: {replicas: {min: 2, max: 3}, split_guidance: true}}"
    )
    settings, workflows = configured(path)
    places = needed_nodes(settings, workflows)
    assert places[TURBO] == NodePlace("lego-tiny.backbone-turbo")
    components = ("adapters", "backbone", "backbone-turbo", "text_encoder", "vae")
    assert places == {("lego-tiny", name): NodePlace(f"lego-tiny.{name}") for name in components}
    plans = plans_of(path)
    turbo, own = plans["lego-tiny.backbone-turbo"], plans["lego-tiny.backbone"]
    assert (turbo.spec.name, turbo.spec.path, turbo.spec.dtype) == ("lego-tiny", str(folders[1]), "float32")
    assert weights_bytes(turbo.spec, turbo.component) == weights_bytes(own.spec, own.component)
    assert (turbo.replicas, own.replicas) == (ReplicaBounds(1, 3), ReplicaBounds(2, 3))
    options = turbo.options
    assert isinstance(options, BackboneOptions)
    assert isinstance(own.options, BackboneOptions)
    assert (options.adapters, options.controlnets, options.templates) == (None, (), TemplateOptions())
    assert options.helpers is None, "it has no second branch"
    assert own.options.helpers == NodePlace("lego-tiny.backbone")
    assert (options.checkpoint_tier, options.tiers.names) == ("turbo", ("exact", "turbo"))
    assert (own.options.checkpoint_tier, own.options.tiers.names) == ("", ("exact", "fast", "turbo"))
    gateway = _gateway_settings(settings, workflows, path, path.parent)
    assert gateway.tiers["lego-tiny"].checkpoints["turbo"].path == str(folders[1])


def test_on_shared_workers_it_is_one_more_resident(folders: tuple[Path, Path]) -> None:
    """Where the model's backbone is."""
    path = configure(folders, ", checkpoint_tiers: true, nodes: {backbone: {placement: shared}}")
    assert needed_nodes(*configured(path))[TURBO] == NodePlace("shared.workers", "lego-tiny.backbone-turbo")
    options = plans_of(path)["shared.workers"].options
    assert isinstance(options, WorkerOptions)
    assert [node.name for node in options.nodes] == ["lego-tiny.backbone", "lego-tiny.backbone-turbo"]


def test_a_configuration_that_does_not_ask_for_it_does_without(folders: tuple[Path, Path]) -> None:
    """Then the model has its other tiers and no more nodes; who asks for it is told, and it cannot be the default."""
    path = configure(folders, "")
    settings, workflows = configured(path)
    assert TURBO not in needed_nodes(settings, workflows)
    book = tier_book(settings, "lego-tiny")
    assert book.names == ("exact", "fast")
    with pytest.raises(
        RequestError, match=r"other weights, which this server does not hold.*There is exact, fast"
    ) as told:
        book.choose("turbo", "euler", 20, 128, 128)
    assert (told.value.code, told.value.param) == ("no_such_tier", "tier")
    settings, _ = configured(configure(folders, ", tier: turbo"))
    with pytest.raises(ConfigError, match=r"`models.lego-tiny`: the tier turbo runs other weights: it needs"):
        tier_book(settings, "lego-tiny")


def test_no_backbone_is_deployed_for_workflows_that_cannot_use_it(folders: tuple[Path, Path]) -> None:
    """Edits and adapters are not for it."""
    path = configure(folders, rest="workflows: [lego-tiny-edit, lego-tiny-lora]\n")
    assert TURBO not in needed_nodes(*configured(path))


def test_a_checkpoint_that_is_not_there_stops_the_start(folders: tuple[Path, Path]) -> None:
    """The line names the model, the tier and the place."""
    shutil.rmtree(folders[1])
    path = configure(folders)
    with pytest.raises(ConfigError, match=r"`models.lego-tiny`: its tier turbo runs .*student, which is not there"):
        node_plans(*configured(path), path.parent)


def test_the_model_of_the_package_has_its_tiers_whether_or_not_a_student_ships(tmp_path: Path) -> None:
    """A student that a tier names is in the package."""
    path = tmp_path / "config.yaml"
    path.write_text("models: {lego-tiny: {path: 'builtin:lego-tiny', checkpoint_tiers: true}}\n")
    settings, workflows = configured(path)
    book = tier_book(settings, "lego-tiny")
    assert isinstance(book, TierBook)
    assert {"exact", "high", "balanced", "fast"} <= set(book.names)
    assert (TURBO in needed_nodes(settings, workflows)) == ("turbo" in book.names)
