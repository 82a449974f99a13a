"""The pages in docs say what the code says: no key, default or metric is missing, and none is invented."""

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
from lego_serve.configuration import docs as config_docs
from lego_serve.core import addons
from lego_serve.metrics import Metrics
from lego_serve.models.lora import checkpoint, header
from lego_serve.models.lora import loading as adapter_loading
from lego_serve.served_workflows import load_workflows

DOCS = Path(__file__).parent.parent / "docs"
OPERATIONS = (DOCS / "operations.md").read_text()
CONFIGURATION = (DOCS / "configuration.md").read_text()
SECTIONS: dict[str, type[BaseModel]] = {
    "Top level": config.Settings,
    "`server`": config.Server,
    "`models.NAME`": config.Model,
    "`models.NAME.adapters`": config.Adapters,
    "`models.NAME.controlnets.ID`": config.ControlNet,
    "`models.NAME.controlnets.ID.link`": config.Link,
    "`models.NAME.controlnets.ID.node`": config.SideNode,
    "`models.NAME.nodes`": config.Nodes,
    "`models.NAME.nodes.vae`": config.Node,
    "`models.NAME.nodes.text_encoder`": config.TextEncoderNode,
    "`models.NAME.nodes.backbone`": config.BackboneNode,
    "`models.NAME.nodes.text_encoder.replicas`": config.Replicas,
    "`templates`": config.Templates,
    "`jobs`": config.Jobs,
    "`jobs.webhooks`": config.Webhooks,
    "`keys`": config.Key,
    "`tenant_limits`": config.TenantLimits,
}


def rows(page: str, title: str) -> dict[str, list[str]]:
    """The table below a heading: the word in its first column, and the other columns."""
    [section] = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", page, re.M | re.S)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {cells[0].strip("`"): cells[1:] for cells in lines[2:]}


def test_the_configuration_page_is_the_generated_one() -> None:
    """After a change of the schema: ``python -m lego_serve.configuration.docs > docs/configuration.md``."""
    assert config_docs.page() == CONFIGURATION


def test_every_key_is_described_in_short_sentences() -> None:
    """A description starts with a capital or a value, ends with a full stop, and has 420 characters at most."""
    for section in SECTIONS.values():
        for name, field in section.model_fields.items():
            assert field.description, name
            assert re.fullmatch(r"[A-Z0-9`].{5,420}\.", field.description), name


def words(annotation: object) -> list[str]:
    """The words a key may be set to, where they are fixed."""
    if get_origin(annotation) is Literal:
        return [str(word) for word in get_args(annotation)]
    return [word for part in get_args(annotation) for word in words(part)]


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_stands_in_its_table_with_its_default(title: str) -> None:
    """Tables and schema have the same keys, defaults and words."""
    fields, table = SECTIONS[title].model_fields, rows(CONFIGURATION, title)
    assert list(table) == list(fields)
    for name, field in fields.items():
        _, bound, default = table[name]
        assert all(f"`{word}`" in bound for word in words(field.annotation)), name
        if field.is_required():
            assert default == "required", name
        elif isinstance(field.default, BaseModel):
            assert default == "its keys'", name
        elif field.default in (None, (), {}):
            assert default == "none", name
        else:
            assert re.fullmatch(rf"`{re.escape(str(field.default).lower())}`( \(\d+ MiB\))?", default), name


@pytest.mark.parametrize("title", SECTIONS)
def test_every_bound_stands_beside_its_key(title: str) -> None:
    """A number in the schema's bounds is in the table too."""
    for name, field in SECTIONS[title].model_fields.items():
        limits = [getattr(rule, side) for rule in bounds(field) for side in ("ge", "gt", "le") if hasattr(rule, side)]
        for limit in limits:
            assert re.search(rf"\b{limit}\b", rows(CONFIGURATION, title)[name][1]), name


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
    assert {name: cells[:2] for name, cells in rows(OPERATIONS, "Metrics").items()} == found


def test_the_command_for_keys_makes_a_key_and_its_digest() -> None:
    """What the page tells to type prints both, and they belong together."""
    [command] = re.findall(r"^python3 -c .*$", OPERATIONS, re.M)
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    key, digest = (line.split()[-1] for line in done.stdout.splitlines())
    assert hashlib.sha256(key.encode()).hexdigest() == digest


def test_the_command_for_a_key_that_exists_prints_its_digest() -> None:
    """Of the key alone, without the end of a line."""
    [command] = re.findall(r"`(printf .*? \| sha256sum)`", OPERATIONS)
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True, env={"KEY": "a b%s"})
    assert done.stdout.split()[0] == hashlib.sha256(b"a b%s").hexdigest()


def test_the_configuration_for_a_container_loads(tmp_path: Path) -> None:
    """With a digest in its place it listens to others and serves workflows."""
    [block] = re.findall(r"```yaml\n(.*?)```", (DOCS / "deployment.md").read_text(), re.S)
    path = tmp_path / "config.yaml"
    path.write_text(block.replace("PUT-THE-DIGEST-HERE", "0" * 64))
    settings = config.load(path)
    assert settings.server.host == "0.0.0.0"
    assert load_workflows(settings, tmp_path)


def test_the_limits_of_adapter_files_are_those_that_are_kept() -> None:
    """Every number of the code stands in the table."""
    page = (DOCS / "adapters.md").read_text()
    limits = " ".join(cell for cells in rows(page, "Adapter files").values() for cell in cells)
    for limit in (
        f"{checkpoint.MAX_FILE_BYTES >> 20} MiB",
        f"{header.MAX_HEADER_BYTES // 10**6} MB of JSON",
        f"{header.MAX_KEPT_BYTES >> 20} MiB without its notes of over {header.MAX_NOTE_BYTES >> 10} KiB",
        f"{checkpoint.MAX_TENSORS:,} tensors",
        f"{checkpoint.MAX_SIDE:,} a side",
        f"none beyond {checkpoint.MAX_WEIGHT:,.0f}",
        f"1 to {adapter_loading.MAX_RANK}",
        f"from -{addons.MAX_SCALE:g} to {addons.MAX_SCALE:g}",
    ):
        assert limit in limits
    assert adapter_loading.MAX_DELTA == checkpoint.MAX_WEIGHT
    assert all(name in limits for name in checkpoint.DTYPES | checkpoint.SMALL_DTYPES)
    assert addons.MAX_ADDONS == 4
