"""docs/operations.md says what the code says: no key, default or metric is missing, and none is invented."""

import hashlib
import re
import subprocess
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from prometheus_client import Counter, Gauge, Histogram
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lego_serve import config
from lego_serve.core import addons
from lego_serve.deployment import load_workflows
from lego_serve.metrics import Metrics
from lego_serve.models.lora import checkpoint
from lego_serve.models.lora import loading as adapter_loading

PAGE = (Path(__file__).parent.parent / "docs" / "operations.md").read_text()
SECTIONS: dict[str, type[BaseModel]] = {
    "Top level": config.Settings,
    "`server`": config.Server,
    "`models.NAME`": config.Model,
    "`models.NAME.adapters`": config.Adapters,
    "`models.NAME.controlnets.ID`": config.ControlNet,
    "`models.NAME.controlnets.ID.link`": config.Link,
    "`models.NAME.controlnets.ID.node`": config.SideNode,
    "`models.NAME.nodes`": config.Nodes,
    "`models.NAME.nodes.COMPONENT`": config.Node,
    "`models.NAME.nodes.text_encoder`": config.TextEncoderNode,
    "`models.NAME.nodes.backbone`": config.BackboneNode,
    "`models.NAME.nodes.COMPONENT.replicas`": config.Replicas,
    "`templates`": config.Templates,
    "`keys`": config.Key,
}


def rows(title: str) -> dict[str, list[str]]:
    """The table below a heading: the word in its first column, and the other columns."""
    [section] = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", PAGE, re.M | re.S)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {cells[0].strip("`"): cells[1:] for cells in lines[2:]}


def own_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """A model's fields without those it inherits."""
    inherited = {name for base in model.__bases__ if issubclass(base, BaseModel) for name in base.model_fields}
    return {name: field for name, field in model.model_fields.items() if name not in inherited}


def words(annotation: object) -> list[str]:
    """The words a key may be set to, where they are fixed."""
    if get_origin(annotation) is Literal:
        return [str(word) for word in get_args(annotation)]
    return [word for part in get_args(annotation) for word in words(part)]


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_stands_in_its_table_with_its_default(title: str) -> None:
    """Tables and schema have the same keys, defaults and words."""
    fields, said = own_fields(SECTIONS[title]), rows(title)
    assert set(said) == set(fields)
    for name, field in fields.items():
        _, bound, default = said[name]
        assert all(f"`{word}`" in bound for word in words(field.annotation)), name
        if field.is_required():
            assert default == "required", name
        elif isinstance(field.default, BaseModel):
            assert default == "its keys'", name
        elif field.default in (None, (), {}):
            assert not default.startswith("`"), name
        else:
            assert default == f"`{str(field.default).lower()}`", name


@pytest.mark.parametrize("title", SECTIONS)
def test_every_bound_stands_beside_its_key(title: str) -> None:
    """A number in the schema's bounds is in the table too."""
    for name, field in own_fields(SECTIONS[title]).items():
        limits = [getattr(rule, side) for rule in bounds(field) for side in ("ge", "gt", "le") if hasattr(rule, side)]
        for limit in limits:
            assert re.search(rf"\b{limit}\b", rows(title)[name][1]), name


def bounds(field: FieldInfo) -> list[object]:
    """What a field's type is annotated with, within unions too."""
    parts = [rule for part in get_args(field.annotation) for rule in getattr(part, "__metadata__", ())]
    inner = [rule for info in parts for rule in getattr(info, "metadata", [info])]
    return [*field.metadata, *inner]


def test_no_model_of_the_configuration_is_left_out() -> None:
    """Every class of keys has a table."""
    known = {c for c in vars(config).values() if isinstance(c, type) and issubclass(c, config.Strict)}
    assert known - {config.Strict} == set(SECTIONS.values())


def test_every_metric_stands_in_the_table_with_its_type_and_labels() -> None:
    """Names as Prometheus sees them; a metric that is gone must leave the page."""
    made = [m for m in vars(Metrics()).values() if isinstance(m, Counter | Gauge | Histogram)]
    found = {}
    for metric in made:
        [family] = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = [family.type, ", ".join(f"`{label}`" for label in metric._labelnames) or "none"]
    assert {name: cells[:2] for name, cells in rows("Metrics").items()} == found


def test_the_command_for_keys_makes_a_key_and_its_digest() -> None:
    """What the page tells to type prints both, and they belong together."""
    [command] = re.findall(r"^python3 -c .*$", PAGE, re.M)
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    key, digest = (line.split()[-1] for line in done.stdout.splitlines())
    assert hashlib.sha256(key.encode()).hexdigest() == digest


def test_the_configuration_for_a_container_loads(tmp_path: Path) -> None:
    """With a digest in its place it listens to others and serves workflows."""
    [block] = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    path = tmp_path / "config.yaml"
    path.write_text(block.replace("PUT-THE-DIGEST-HERE", "0" * 64))
    settings = config.load(path)
    assert settings.server.host == "0.0.0.0"
    assert load_workflows(settings, tmp_path)


def test_the_limits_of_adapter_files_are_those_that_are_kept() -> None:
    """Every number of the code stands in the table."""
    said = " ".join(cell for cells in rows("Adapter files").values() for cell in cells)
    for limit in (
        f"{checkpoint.MAX_FILE_BYTES >> 20} MiB",
        f"{checkpoint.MAX_HEADER_BYTES >> 20} MiB of JSON",
        f"{checkpoint.MAX_TENSORS:,} tensors",
        f"{checkpoint.MAX_SIDE:,} a side",
        f"none beyond {checkpoint.MAX_WEIGHT:,.0f}",
        f"1 to {adapter_loading.MAX_RANK}",
        f"from -{addons.MAX_SCALE:g} to {addons.MAX_SCALE:g}",
    ):
        assert limit in said
    assert adapter_loading.MAX_DELTA == checkpoint.MAX_WEIGHT
    assert all(name in said for name in checkpoint.DTYPES)
    assert addons.MAX_ADDONS == 4
