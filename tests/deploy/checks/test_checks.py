"""Every check of deploy/ finds a fault that was planted, and nothing in what is there."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import generate
from deploy.checks import __main__ as checks
from deploy.checks import kinds, monitoring, network, operator, packaging, plants, serving
from deploy.checks.tools import HERE, KUBERNETES, ToolMissing, overlay, program, rendered, with_component

Change = Callable[[Any], object]


@pytest.fixture
def prod() -> list[Any]:
    """The manifests of prod-ha, to be changed."""
    return copy.deepcopy(list(overlay("prod-ha")))


def one(manifests: list[Any], kind: str, name: str | None = None) -> Any:
    """A manifest of a kind, and of a name."""
    return next(m for m in manifests if m["kind"] == kind and name in (None, m["metadata"]["name"]))


def cluster(manifests: list[Any]) -> Any:
    """The Ray cluster of a RayService."""
    return one(manifests, "RayService")["spec"]["rayClusterConfig"]


def pod(manifests: list[Any], group: int) -> Any:
    """The pod of a worker group."""
    return cluster(manifests)["workerGroupSpecs"][group]["template"]["spec"]


def main_of(manifests: list[Any], group: int) -> Any:
    """The container of a worker group."""
    return pod(manifests, group)["containers"][0]


def promtool_or_skip() -> None:
    """Go on where promtool is."""
    try:
        program("promtool")
    except ToolMissing as missing:
        pytest.skip(str(missing))


def test_a_check_that_finds_nothing_is_a_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make check` runs all of them, and each over a planted fault."""
    assert plants.PLANTS.keys() == checks.CHECKS.keys()
    monkeypatch.setattr(checks, "CHECKS", {"network": checks.CHECKS["network"]})
    assert checks.main() == 0
    monkeypatch.setitem(plants.PLANTS, "network", lambda folder: [])
    assert checks.main() == 1
    assert "network: 1 faults" in capsys.readouterr().out


def test_every_component_can_be_put_on_the_base() -> None:
    """Also that which no overlay has."""
    [service] = [each for each in with_component("incremental-upgrade") if each["kind"] == "RayService"]
    assert service["spec"]["upgradeStrategy"]["type"] == "NewClusterWithIncrementalUpgrade"


@pytest.mark.parametrize(
    ("plant", "fault"),
    [
        (lambda m: one(m, "Service").update(spek={}), "spek"),
        (lambda m: main_of(m, 0)["readinessProbe"].update(periodSecond=3), "periodSecond"),
        (lambda m: cluster(m).update(rayVersions="2"), "rayVersions"),
        (lambda m: cluster(m)["workerGroupSpecs"][1].update(minReplica=1), "minReplica"),
        (lambda m: one(m, "PodMonitor")["spec"].update(endpoints=[]), "endpoints"),
        (lambda m: one(m, "HTTPRoute")["spec"]["rules"][0].update(match=[]), "match"),
        (lambda m: one(m, "PrometheusRule")["spec"]["groups"][0]["rules"][2].update(fro="1m"), "NoReadyGateway"),
        (lambda m: one(m, "Service").update(apiVersion="v7"), "v7"),
    ],
)
def test_a_misspelt_key_of_any_kind_is_found(prod: list[Any], plant: Change, fault: str) -> None:
    """Also where a cluster would pass over it."""
    plant(prod)
    assert any(fault in each for each in kinds.faults(prod))


@pytest.mark.parametrize(
    ("plant", "fault"),
    [
        (lambda m: one(m, "RayService")["metadata"].update(name="x" * 48), "more than 47 letters"),
        (lambda m: cluster(m)["authOptions"].pop("mode"), "is no authentication"),
        (lambda m: main_of(m, 0)["env"].append({"name": "REDIS_PASSWORD", "valueFrom": {}}), "exclude each other"),
        (lambda m: cluster(m)["workerGroupSpecs"][1]["rayStartParams"].update(labels="a=b"), "cannot have labels"),
        (lambda m: pod(m, 1).update(restartPolicy="Always"), "restartPolicy"),
        (lambda m: cluster(m)["workerGroupSpecs"][0].update(replicas=9), "between minReplicas and maxReplicas"),
        (lambda m: main_of(m, 2).pop("readinessProbe"), "class-b: without its own readinessProbe"),
        (lambda m: main_of(m, 1)["volumeMounts"].pop(0), "needs an emptyDir on /tmp"),
        (lambda m: main_of(m, 1)["securityContext"].pop("readOnlyRootFilesystem"), "root must be read-only"),
        (lambda m: pod(m, 0).update(terminationGracePeriodSeconds=30), "must be at least 35"),
        (
            lambda m: main_of(m, 2)["lifecycle"]["preStop"]["sleep"].update(seconds=9),
            "class-b: its preStop must sleep 30",
        ),
        (lambda m: main_of(m, 1)["env"].append({"name": "HF_TOKEN", "value": "hf_x"}), "secrets come by reference"),
        (lambda m: one(m, "PodDisruptionBudget")["spec"].update(minAvailable="50%"), "must be a number"),
        (lambda m: pod(m, 0)["volumes"][1]["configMap"].update(name="lego-config"), "no ConfigMap is called"),
        (lambda m: cluster(m)["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"].pop(), "a port `serve`"),
        (lambda m: cluster(m)["headGroupSpec"]["rayStartParams"].pop("num-cpus"), "num-cpus must be 0"),
    ],
)
def test_what_kuberay_would_refuse_or_misunderstand_is_found(prod: list[Any], plant: Change, fault: str) -> None:
    """And what would hurt when a pod ends."""
    plant(prod)
    assert any(fault in each for each in operator.faults(prod))


def test_an_image_that_no_overlay_names_is_found(prod: list[Any]) -> None:
    """A port of a registry is no tag."""
    assert list(operator.image_faults(prod)) == []
    main_of(prod, 2).update(image="registry:5000/lego-serve-worker")
    [fault] = operator.image_faults(prod)
    assert fault.startswith("class-b: registry:5000/lego-serve-worker has no tag")


def test_an_incremental_upgrade_is_checked_though_no_overlay_has_one(prod: list[Any]) -> None:
    """It needs the autoscaler, and its steps must fit its surge."""
    options = {"gatewayClassName": "istio", "stepSizePercent": 60, "intervalSeconds": 30, "maxSurgePercent": 50}
    upgrade = {"type": "NewClusterWithIncrementalUpgrade", "clusterUpgradeOptions": options}
    one(prod, "RayService")["spec"]["upgradeStrategy"] = upgrade
    cluster(prod)["enableInTreeAutoscaling"] = False
    assert list(kinds.faults(prod)) == []
    assert len([each for each in operator.faults(prod) if "incremental" in each or "stepSizePercent" in each]) == 2


def test_kuberays_own_definition_finds_what_it_does_not_know(prod: list[Any], tmp_path: Path) -> None:
    """Where that is at hand; a small one stands for it here."""
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"serveConfigV2": {}}}}}
    schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {"type": "object"}}  # type: ignore[operator]
    crd = tmp_path / "crd.yaml"
    crd.write_text(yaml.safe_dump({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}}))
    [fault] = operator.crd_faults([one(prod, "RayService")], crd)
    assert "upgradeStrategy" in fault
    assert list(operator.crd_faults(prod, tmp_path / "none")) == []


def test_keys_that_serve_would_pass_over_are_found() -> None:
    """At the top, of an application, of a deployment; and a service without applications."""
    overlaid = one(list(overlay("cpu-dev")), "RayService")["spec"]["serveConfigV2"]
    for plant in (
        lambda d: d.update(proxy_lokation="Disabled"),
        lambda d: d["applications"][0].update(route_prefx=None),
        lambda d: d["applications"][0].update(deployments=[{"name": "vae", "num_replica": 2}]),
        lambda d: d["logging_config"].update(log_levl="INFO"),
    ):
        document = yaml.safe_load(overlaid)
        plant(document)
        assert any("unknown key" in fault for fault in serving.serve_faults(document))
    assert list(serving.serve_faults({"applications": []})) == ["no application: the service would never be ready"]


def test_a_class_of_machines_that_no_group_has_is_found(tmp_path: Path) -> None:
    """The configuration names it by label; one line says which node asks."""
    config = tmp_path / "config.yaml"
    config.write_text((KUBERNETES / "overlays" / "prod-ha" / "config.yaml").read_text().replace("large-gpu", "h100"))
    groups = [{"lego-class": "gpu"}, {"lego-class": "large-gpu"}]
    found = list(serving.placeless(config, groups))
    assert len(found) == 3
    assert "no worker group has lego-class=h100, which `models.flux-dev` asks for its text_encoder" in found[0]


def test_files_that_are_not_current_are_found(tmp_path: Path) -> None:
    """Each is named with what writes it anew."""
    path = next(iter(generate.files()))
    assert "run `make deploy-files`" in next(iter(serving.stale_files({path: "other"})))


def test_a_policy_that_is_missing_or_too_wide_is_found(prod: list[Any]) -> None:
    """Every documented port is in the table."""
    without = [m for m in prod if m["metadata"]["name"] != "operator-to-head"]
    [fault] = network.faults(without, network.TABLE)
    assert fault == "kuberay-operator (kuberay-operator) to headgroup (lego):8265 is closed"
    one(prod, "NetworkPolicy", "ray-nodes")["spec"]["ingress"].append({})
    assert any("6379 is open" in each for each in network.faults(prod, network.TABLE))


def test_base_alone_has_no_fault() -> None:
    """It can be read and built upon."""
    assert list(kinds.faults(rendered(KUBERNETES / "base"))) == []


def test_a_wrong_rule_and_an_alert_without_a_test_are_found(tmp_path: Path) -> None:
    """promtool runs the tests against the changed rules."""
    promtool_or_skip()
    for name in ("rules.yaml", "rules_test.yaml"):
        (tmp_path / name).write_text((HERE / "prometheus" / name).read_text())
    rules, tests = tmp_path / "rules.yaml", tmp_path / "rules_test.yaml"
    rules.write_text(rules.read_text().replace("> 0.144 and", "> 0.9 and"))
    assert any("SloBurnsFast" in each for each in monitoring.rule_faults(rules, tests))
    tests.write_text(tests.read_text().replace("alertname: DataflowIsBroken", "alertname: NoReadyGateway"))
    assert any("no test makes DataflowIsBroken fire" in each for each in monitoring.rule_faults(rules, tests))


def test_metrics_that_nobody_has_and_alerts_without_a_page_are_found(tmp_path: Path) -> None:
    """Whether in a rule or in the dashboard."""
    [fault] = monitoring.unknown_metrics("rate(lego_serve_request_total[5m])", "x")
    assert fault == "x: no metric is called lego_serve_request_total"
    runbook = tmp_path / "runbook.md"
    runbook.write_text("## NoReadyGateway\n\n## Nothing\n")
    found = list(monitoring.runbook_faults(HERE / "prometheus" / "rules.yaml", runbook))
    assert any("no section SloBurnsFast" in each for each in found)
    assert "runbook.md: Nothing is no alert" in found


def test_a_route_to_the_wrong_receiver_is_found(tmp_path: Path) -> None:
    """Pages must page."""
    promtool_or_skip()
    for path in (HERE / "prometheus").glob("*.y*ml"):
        (tmp_path / path.name).write_text(path.read_text().replace('severity="page"', 'severity="pages"'))
    assert list(monitoring.config_faults(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("read_only: true", "read_olny: true", "read_olny"),
        ("    read_only: true\n", "", "the root must be read-only"),
        ("redis: {condition", "rediss: {condition", "app depends on rediss"),
        ("127.0.0.1:9090:9090", "9090:9090", "is open to others"),
        ("data:/var/lib/lego-serve", "dta:/var/lib/lego-serve", "there is no volume dta"),
        ("compose/keys.yaml}", "compose/key.yaml}", "there is no compose/key.yaml"),
        ("./compose/config.yaml", "./compose/confg.yaml", "app: there is no file ./compose/confg.yaml"),
        ("    shm_size: 1gb", "    configs: []\n    shm_size: 1gb", "passes `configs` over"),
        ("stop_grace_period: 60s", "stop_grace_period: sixty", "stop_grace_period"),
    ],
)
def test_what_compose_would_refuse_and_what_it_would_not_look_at_is_found(
    tmp_path: Path, old: str, new: str, fault: str
) -> None:
    """Names, files, open ports and writable roots."""
    path = tmp_path / "compose.yaml"
    text = packaging.COMPOSE.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    for name in ("compose", "prometheus", "grafana"):
        (tmp_path / name).symlink_to(HERE / name)
    assert any(fault in each for each in packaging.compose_faults(path)), list(packaging.compose_faults(path))


def test_a_dockerfile_that_runs_as_root_by_the_latest_image_is_found(tmp_path: Path) -> None:
    """hadolint says so."""
    path = tmp_path / "Dockerfile"
    path.write_text("FROM python:latest\nUSER root\n")
    assert list(packaging.dockerfile_faults(path))
