"""Reads what a simulation is of: a cluster from YAML, requests from a trace of JSON lines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lego_serve.core.cluster.profiles import CostModel, Profile
from lego_serve.core.cluster.work import JobWork, WorkflowShape
from lego_serve.core.tiers.book import EXACT
from lego_serve.errors import ConfigError
from lego_serve.sim.cluster import GIB, Setting
from lego_serve.sim.workload import Request
from lego_serve.yaml_reader import YamlReader


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelFile(_Closed):
    """A model's profile in a cluster file."""

    load_s: float = Field(ge=0, description="Seconds to copy its weights from host memory to a GPU.")
    gib: float = Field(ge=0, description="GiB of its weights on a GPU; 0 for a node without weights.")
    batch_s: dict[int, float] = Field(min_length=1, description="Seconds of a pass by the rows of its batch.")


class TierFile(_Closed):
    """A tier of a workflow in a cluster file."""

    steps: int = Field(ge=1, description="Steps that it takes, of the workflow's.")
    share: float = Field(ge=0, le=1, description="Its part of the workflow's requests, where a trace does not say.")
    branches: int | None = Field(
        default=None, ge=1, le=2, description="Those of its steps, where they are not the workflow's: 1 of a student."
    )
    rows: float = Field(default=1.0, gt=0, le=1, description="The part of the rows that its steps compute.")
    backbone: str | None = Field(default=None, description="The model that takes its steps in place of the workflow's.")


class WorkflowFile(_Closed):
    """A workflow in a cluster file."""

    backbone: str
    steps: int = Field(ge=1)
    branches: int = Field(default=1, ge=1, le=2, description="2 with guidance.")
    encoders: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()
    controlnets: tuple[str, ...] = ()
    decoder: str | None = None
    share: float = Field(default=1.0, ge=0, description="Its part of the load, where a trace does not say.")
    solo_s: float | None = Field(default=None, gt=0, description="Its latency alone, instead of the profile's sum.")
    tiers: dict[Literal["high", "balanced", "fast", "turbo"], TierFile] = Field(
        default={}, description="Tiers with less work; they have the time that all of it would take."
    )

    def shapes(self, name: str) -> dict[str, WorkflowShape]:
        """Return its shape under its name, and that of each tier as `NAME:TIER`.  Raises ValueError."""
        fields = self.model_dump(exclude={"share", "solo_s", "tiers"})
        shapes = {name: WorkflowShape(name, **fields)}
        for tier, each in self.tiers.items():
            if each.steps > self.steps:
                raise ValueError(f"workflow {name}: tier {tier} has {each.steps} steps, more than {self.steps}")
            if each.branches is not None and each.branches > self.branches:
                raise ValueError(
                    f"workflow {name}: tier {tier} has {each.branches} branches, more than {self.branches}"
                )
            own = each.model_dump(exclude={"share"}, exclude_none=True)
            shapes[tier_name(name, tier)] = WorkflowShape(tier_name(name, tier), **fields | own)
        return shapes

    def shares(self, name: str) -> dict[str, float]:
        """Return the part of the load of all steps and of each tier.  Raises ValueError."""
        rest = 1.0 - sum(each.share for each in self.tiers.values())
        if rest < -1e-9:
            raise ValueError(f"workflow {name}: its tiers take more than all of its requests")
        tiers = {tier_name(name, tier): self.share * each.share for tier, each in self.tiers.items()}
        return {name: self.share * max(0.0, rest)} | tiers


def tier_name(workflow: str, tier: str) -> str:
    """Return what a tier of a workflow is called as a workflow of its own."""
    return f"{workflow}:{tier}"


class ClusterFile(_Closed):
    """A cluster file: GPUs, models with their profiles, and workflows."""

    gpus: int = Field(ge=1)
    memory_gib: float = Field(gt=0)
    slo_scale: float = Field(default=2.0, gt=0, description="A request's time over the latency alone.")
    models: dict[str, ModelFile]
    workflows: dict[str, WorkflowFile] = Field(min_length=1)

    def setting(self, gpus: int | None = None, slo_scale: float | None = None) -> Setting:
        """The cluster of the file, with other GPUs or another SLO."""
        costs = CostModel(
            Profile(name, model.load_s, int(model.gib * GIB), tuple(sorted(model.batch_s.items())))
            for name, model in self.models.items()
        )
        shapes, shares, solo_s = dict[str, WorkflowShape](), dict[str, float](), dict[str, float]()
        for name, each in self.workflows.items():
            own = each.shapes(name)
            shapes |= own
            shares |= each.shares(name)
            if each.solo_s is not None or each.tiers:  # who takes a lower tier waits no shorter for it
                solo_s |= dict.fromkeys(own, each.solo_s or JobWork(own[name], costs).solo_s)
        memory_bytes = int(self.memory_gib * GIB)
        return Setting(gpus or self.gpus, memory_bytes, costs, shapes, shares, slo_scale or self.slo_scale, solo_s)


def read_cluster(path: Path) -> ClusterFile:
    """Return the cluster of a file.  Raises ConfigError, whose message names file, line and field."""
    reader = YamlReader(str(path), "cluster", ConfigError)
    values = reader.read(_text(path))
    try:
        cluster = ClusterFile.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = tuple(str(part) for part in first["loc"])
        raise ConfigError(f"{reader.where(place)}: {'.'.join(place)}: {first['msg']}") from None
    for name, workflow in cluster.workflows.items():
        tiers = [each.backbone for each in workflow.tiers.values() if each.backbone is not None]
        for model in (workflow.backbone, *tiers, *workflow.encoders, *workflow.prepare, *workflow.controlnets):
            _check_profile(reader, cluster, name, model)
        if workflow.decoder is not None:
            _check_profile(reader, cluster, name, workflow.decoder)
    try:
        cluster.setting()
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"{reader.where(('workflows',))}: {error}") from None
    return cluster


def _check_profile(reader: YamlReader, cluster: ClusterFile, workflow: str, model: str) -> None:
    if model not in cluster.models:
        where = reader.where(("workflows", workflow))
        raise ConfigError(f"{where}: workflows.{workflow}: there is no profile of model {model} under `models`")


def read_trace(path: Path, setting: Setting) -> list[Request]:
    """Return the requests of a trace: a JSON object a line, with `timestamp` in ms, `extra.workflow` and `extra.tier`.

    Raises ConfigError, whose message names file, line and field.
    """
    requests = [_request(f"{path}:{line}", number, value, setting) for number, (line, value) in enumerate(_lines(path))]
    if not requests:
        raise ConfigError(f"{path}:1: a trace has at least one request")
    return sorted(requests, key=lambda each: each.at_s)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise ConfigError(f"{path}:{number}: a line is an object with `timestamp` and `extra`")
        yield number, value


def _request(where: str, number: int, value: dict[str, Any], setting: Setting) -> Request:
    extra = value.get("extra") or {}
    at_ms, workflow = _number(where, value, "timestamp", 0.0), str(extra.get("workflow"))
    tier = extra.get("tier", EXACT)
    workflow = workflow if tier == EXACT else tier_name(workflow, str(tier))
    if workflow not in setting.workflows:
        known = ", ".join(sorted(setting.workflows)[:6])
        raise ConfigError(f"{where}: extra.workflow: the cluster has no workflow {workflow!r}; it has {known}")
    slo_ms = _number(where, extra, "slo_ms", 1000.0 * setting.slo_s(workflow))
    scale = _number(where, extra, "scale", 1.0)
    if slo_ms <= 0 or scale <= 0:
        raise ConfigError(f"{where}: extra.slo_ms and extra.scale are above 0")
    return Request(number, at_ms / 1000.0, workflow, slo_ms / 1000.0, scale, str(extra.get("tenant", "default")))


def _number(where: str, values: dict[str, Any], key: str, default: float) -> float:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        raise ConfigError(f"{where}: {key}: a number, not {value!r}")
    return float(value)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
