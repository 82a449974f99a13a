"""The page at /metrics keeps the rules that ``promtool check metrics`` applies."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from lego_serve.core.addons import AdapterStats, ControlNetStats
from lego_serve.core.durable_jobs.store import JobCounts
from lego_serve.core.editing.reuse import ReuseStats, TemplateUse
from lego_serve.core.jobs.job import GeneratedImage, JobResult, TaskStats
from lego_serve.core.scheduling.autoscaling import ReplicaBounds, ScaleDecision
from lego_serve.core.scheduling.scale_board import NodeScale, ScaleBoard
from lego_serve.metrics import Metrics
from lego_serve.process.metrics_page import settle
from lego_serve.workflow_files import built_in_workflows

ROOT = Path(__file__).parent.parent
READ = ReuseStats("high", masked_steps=15, steps=20, active_rows=9, rows=64, primed=30, evicted=4)
SNAKE = re.compile(r"[a-z_][a-z0-9_]*")
TYPES = ("counter", "gauge", "histogram", "summary")
ABBREVIATED = {"s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"}
SCALED = {"milliseconds", "microseconds", "nanoseconds", "minutes", "hours", "days", "weeks", "percent"} | {
    prefix + unit
    for prefix in ("milli", "micro", "nano", "kilo", "kibi", "mega", "mebi", "giga", "gibi", "tera", "tebi")
    for unit in ("bytes", "bits", "meters", "grams", "joules", "volts", "amperes", "kelvin")
}


def observed() -> Metrics:
    """Metrics with a sample in each."""
    metrics = Metrics()
    workflow = built_in_workflows()["lego-tiny"]
    image = GeneratedImage(1, 1, b"rgb", 0)
    used = (AdapterStats("a", 1.0, hit=True), AdapterStats("b", 0.5, hit=False, load_s=0.2, bytes=100))
    nets = (
        ControlNetStats("c", "remote"),
        ControlNetStats("d", "colocated", hit=False, load_s=0.3, bytes=100),
    )
    ran = TaskStats(0.1, 0.2, step_s=(0.1, 0.1), step_lanes=(1, 2), step_rows=(64, 128))
    stats = {
        "cond": TaskStats(cache_hit=True),
        "negative": TaskStats(run_s=0.1),
        "latents": replace(ran, adapters=used, controlnets=nets, reuse=READ),
        "image": TaskStats(run_s=0.1),
    }
    metrics.count_accepted()
    metrics.record_result(workflow, JobResult((image, image), 0.1, {}, 1, stats))
    metrics.count_left("completed")
    metrics.set_jobs(1, 2, 3, is_ready=True)
    metrics.set_scales(ScaleBoard({"lego-tiny.vae": NodeScale(1, ReplicaBounds(1, 2))}))
    metrics.record_outcome(workflow.name, "node_failed", 0.5)
    metrics.set_template_use("lego-tiny", TemplateUse(3, 1000, 4000) + TemplateUse(1, 500, 4000))
    metrics.record_comparison(workflow.name, "high", 0.98, 40.0, is_equal_outside=False)
    metrics.record_outcome(workflow.name, "ok", 0.5)
    metrics.count_rejected("over_capacity")
    metrics.record_dataflow_check(True)
    metrics.record_dataflow_check(False)
    metrics.count_webhook("delivered")
    metrics.set_durable_jobs(JobCounts(3, 2, 1))
    metrics.count_durable_end("completed")
    metrics.count_decision("lost")
    metrics.count_retry("denoise", "lego-tiny")
    metrics.count_redone("lego-tiny", 2)
    metrics.set_memory_use("text_encoder", "lego-tiny", {"prompts": (100, 1000)})
    return metrics


def complaints(page: str) -> list[str]:
    """What promtool would say of a page."""
    found = []
    families = list(text_string_to_metric_families(page))
    declared = re.findall(r"^# TYPE (\S+) (\S+)$", page, re.M)
    helped = dict(re.findall(r"^# HELP (\S+) (.*)$", page, re.M))
    for name, kind in declared:
        words = set(name.split("_"))
        found += [f"{name}: no help text"] if not helped.get(name, "").strip() else []
        found += [f"{name}: a counter ends in _total"] if kind == "counter" and not name.endswith("_total") else []
        found += [f"{name}: only a counter ends in _total"] if kind != "counter" and name.endswith("_total") else []
        found += [f"{name}: declared twice"] if [n for n, _ in declared].count(name) > 1 else []
        found += [f"{name}: no snake case"] if not SNAKE.fullmatch(name) else []
        found += [f"{name}: the type {word} is in the name" for word in sorted(words & {*TYPES})]
        found += [f"{name}: no base unit: {word}" for word in sorted(words & (ABBREVIATED | SCALED))]
        if kind not in ("histogram", "summary") and name.endswith(("_bucket", "_count", "_sum")):
            found.append(f"{name}: the suffix belongs to histograms")
        if kind in ("histogram", "summary") and name.endswith(("_bucket", "_count", "_sum", "_total", "_created")):
            found.append(f"{name}: a reserved suffix")
    undeclared = {family.name for family in families if family.type not in TYPES}
    found += [f"{name}: no type" for name in sorted(undeclared)]
    return found + [complaint for family in families for complaint in _labels(family)]


def _labels(family: Metric) -> list[str]:
    names = {label for sample in family.samples for label in sample.labels}
    found = [f"{family.name}: label {name} is no snake case" for name in sorted(names) if not SNAKE.fullmatch(name)]
    found += [f"{family.name}: label {name} is reserved" for name in sorted(names) if name.startswith("__")]
    for name, kind in (("le", "histogram"), ("quantile", "summary")):
        found += [f"{family.name}: label {name} belongs to a {kind}"] if name in names and family.type != kind else []
    return found


def begun() -> Metrics:
    """The metrics of a gateway that nobody has asked for anything yet."""
    metrics = Metrics()
    metrics.begin_at_zero([built_in_workflows()["lego-tiny"]])
    return metrics


def shared_page(folder: Path, made: str = "observed") -> str:
    """The page as gateways that share a folder give it; prometheus_client looks for the folder when imported."""
    code = f"import runpy, sys; made = runpy.run_path({__file__!r}); sys.stdout.buffer.write(made[{made!r}]().page())"
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@pytest.mark.parametrize("shared", [False, True])
def test_promtool_has_nothing_to_complain_of(shared: bool, tmp_path: Path) -> None:
    """One gateway's page and that of several together, with a sample in every metric."""
    page = shared_page(tmp_path) if shared else observed().page({"PROMETHEUS_MULTIPROC_DIR": ""}).decode()
    assert complaints(page) == []
    families = {family.name: family for family in text_string_to_metric_families(page)}
    assert len(families) > 10
    assert all(name.startswith("lego_serve_") and family.samples for name, family in families.items())


@pytest.mark.parametrize("shared", [False, True])
def test_what_rules_see_grow_is_there_before_it_first_happens(shared: bool, tmp_path: Path) -> None:
    """At zero: Prometheus would take the first broken dataflow for one that has always been there."""
    rules = (ROOT / "deploy" / "prometheus" / "rules.yaml").read_text()
    growing = set(re.findall(r"(?:rate|increase)\((lego_serve_\w+)", rules))
    assert "lego_serve_dataflow_checks_total" in growing
    page = shared_page(tmp_path, "begun") if shared else begun().page({"PROMETHEUS_MULTIPROC_DIR": ""}).decode()
    families = text_string_to_metric_families(page)
    samples = [sample for family in families for sample in family.samples if sample.name in growing]
    assert growing == {sample.name for sample in samples}
    assert {sample.value for sample in samples} == {0.0}
    assert sum(sample.labels.get("result") == "broken" for sample in samples) == 1


def test_adapters_and_controlnets_are_counted_by_whether_they_had_to_be_loaded() -> None:
    """One of each here was at hand and one was not."""
    page = observed().page({"PROMETHEUS_MULTIPROC_DIR": ""}).decode()
    for kind, seconds in (("adapter", 0.2), ("controlnet", 0.3)):
        values = {"hits_total": 1.0, "loads_total": 1.0, "loaded_bytes_total": 100.0, "load_seconds_sum": seconds}
        for name, value in values.items():
            assert f'lego_serve_{kind}_{name}{{model="lego-tiny"}} {value}' in page


def test_steps_on_the_checkpoint_of_a_tier_are_told_apart() -> None:
    """They say nothing of the steps of the model's own weights."""
    workflow = built_in_workflows()["lego-tiny"]
    nodes = {**workflow.nodes, "latents": replace(workflow.nodes["latents"], tier="turbo")}
    metrics = Metrics()
    for steps, each in ((4, replace(workflow, nodes=nodes)), (28, workflow)):
        stats = {"latents": TaskStats(step_s=(0.1,) * steps, step_lanes=(1,) * steps)}
        metrics.record_result(each, JobResult((), 0.1, {}, 1, stats))
    page = metrics.page({"PROMETHEUS_MULTIPROC_DIR": ""}).decode()
    assert 'lego_serve_denoise_step_seconds_count{model="lego-tiny",tier="turbo"} 4.0' in page
    assert 'lego_serve_denoise_step_seconds_count{model="lego-tiny",tier=""} 28.0' in page


def test_labels_come_from_small_fixed_sets() -> None:
    """No metric is labelled with a prompt, an id or a path."""
    families = text_string_to_metric_families(observed().page({"PROMETHEUS_MULTIPROC_DIR": ""}).decode())
    assert {label for family in families for sample in family.samples for label in sample.labels} == {
        "computed", "kind", "le", "model", "node", "outcome", "quality", "reason", "result", "state", "tier",
        "workflow",
    }  # fmt: skip


def test_the_replicas_of_nodes_are_what_the_board_says() -> None:
    """And how often that was changed: nought before the first time."""
    metrics, board = Metrics(), ScaleBoard()
    for target in (1, 3):
        board.note("m.vae", 1, ScaleDecision(target, "work"), ReplicaBounds(1, 4), 0.0)
        metrics.set_scales(board)
        page = metrics.page().decode()
        assert f'lego_serve_replicas_wanted{{model="m",node="vae"}} {target}.0' in page
        assert f"lego_serve_scale_changes {target // 2}.0" in page


def test_checks_of_the_dataflow_are_counted_by_result() -> None:
    """One here was in order and one was not."""
    page = observed().page({"PROMETHEUS_MULTIPROC_DIR": ""}).decode()
    for result in ("ok", "broken"):
        assert f'lego_serve_dataflow_checks_total{{result="{result}"}} 1.0' in page


@pytest.mark.parametrize("shared", [False, True])
def test_edits_count_steps_and_templates_say_what_they_take(shared: bool, tmp_path: Path) -> None:
    """Steps of every image of a job, passes and evictions of the job, and the last that was heard of all replicas."""
    page = shared_page(tmp_path) if shared else observed().page({"PROMETHEUS_MULTIPROC_DIR": ""}).decode()
    for sample in (
        'edit_steps_total{computed="masked",model="lego-tiny"} 30.0',
        'edit_steps_total{computed="whole",model="lego-tiny"} 10.0',
        'template_primings_total{model="lego-tiny"} 30.0',
        'template_evictions_total{model="lego-tiny"} 4.0',
        'template_entries{model="lego-tiny"} 4.0',
        'template_used_bytes{model="lego-tiny"} 1500.0',
        'template_budget_bytes{model="lego-tiny"} 8000.0',
    ):
        assert f"\nlego_serve_{sample}\n" in page, sample


@pytest.mark.parametrize(
    ("name", "kind", "labels", "message"),
    [
        ("x_jobs", "counter", "", "a counter ends in _total"),
        ("x_jobs_total", "gauge", "", "only a counter"),
        ("x_wait_milliseconds", "gauge", "", "no base unit"),
        ("x_wait_ms", "gauge", "", "no base unit"),
        ("x_held_megabytes", "gauge", "", "no base unit"),
        ("x_held_gauge", "gauge", "", "the type gauge"),
        ("x_held_count", "gauge", "", "belongs to histograms"),
        ("x_lanes_sum", "histogram", "", "reserved suffix"),
        ("xLanes", "gauge", "", "no snake case"),
        ("x_lanes", "gauge", '{modelName="a"}', "label modelName"),
        ("x_lanes", "gauge", '{le="1"}', "label le"),
    ],
)
def test_each_rule_is_checked(name: str, kind: str, labels: str, message: str) -> None:
    """A metric that breaks a rule is complained of; the check is no empty one."""
    sample = f"{name}_bucket" if kind == "histogram" else name
    where = '{le="+Inf"}' if kind == "histogram" else labels
    page = f"# HELP {name} Words.\n# TYPE {name} {kind}\n{sample}{where} 1\n"
    assert any(message in complaint for complaint in complaints(page)), complaints(page)


def test_a_metric_without_help_or_type_is_complained_of() -> None:
    """Both rules are checked."""
    assert complaints("# TYPE x_lanes gauge\nx_lanes 1\n") == ["x_lanes: no help text"]
    assert complaints("# HELP x_lanes Words.\nx_lanes 1\n") == ["x_lanes: no type"]


ENDINGS = ("completed", "failed", "cancelled", "expired")


def jobs_of(page: str) -> tuple[float, float, float]:
    """Jobs accepted, ended and in flight, as a page has them."""
    values = {s.name: 0.0 for f in text_string_to_metric_families(page) for s in f.samples}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            values[sample.name] += sample.value
    names = ("jobs_accepted_total", "jobs_ended_total", "requests_in_flight")
    accepted, ended, in_flight = (values.get(f"lego_serve_{name}", 0.0) for name in names)
    return accepted, ended, in_flight


@given(st.lists(st.sampled_from(("accept", *ENDINGS)), max_size=40))
def test_accepted_jobs_have_ended_or_are_in_flight_at_every_scrape(events: list[str]) -> None:
    """Whatever happens in between, and nothing is counted twice."""
    metrics, in_flight = Metrics(), 0
    for event in events:
        if event == "accept":
            metrics.count_accepted()
            in_flight += 1
        elif in_flight:
            metrics.count_left(event)
            in_flight -= 1
        accepted, ended, told = jobs_of(metrics.page({"PROMETHEUS_MULTIPROC_DIR": ""}).decode())
        assert (accepted, told) == (ended + told, in_flight)


def test_the_jobs_of_a_gateway_that_died_have_failed(tmp_path: Path) -> None:
    """And are not in flight for ever; a second look counts them once."""
    code = (
        f"import runpy, os; made = runpy.run_path({__file__!r}); metrics = made['Metrics']();"
        "[metrics.count_accepted() for _ in range(3)]; metrics.count_left('completed'); print(os.getpid())"
    )
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)
    pid = int(done.stdout)
    look = f"import runpy; print(runpy.run_path({__file__!r})['Metrics']().page().decode())"

    def page() -> str:
        asked = subprocess.run([sys.executable, "-c", look], cwd=ROOT, env=environment, capture_output=True, check=True)
        return asked.stdout.decode()

    assert jobs_of(page()) == (3, 1, 2)
    for _ in range(2):
        settle(tmp_path, pid)
    assert jobs_of(page()) == (3, 3, 0)
    assert 'lego_serve_jobs_ended_total{outcome="failed"} 2.0' in page()
    settle(tmp_path, 1)  # one that counted nothing
