"""Who may reach whom: NetworkPolicies evaluated over a table of connections."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from deploy.checks.tools import Manifest

OWN = {"kubernetes.io/metadata.name": "lego"}


@dataclass(frozen=True, slots=True)
class Pod:
    """One end of a connection: a pod by its labels and its namespace's, or an address outside."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: Mapping[str, str] = field(default_factory=lambda: OWN)
    address: str | None = None


def ray(group: str, kind: str = "worker") -> Pod:
    """A Ray node's pod, with the labels that KubeRay gives it."""
    return Pod({"ray.io/is-ray-node": "yes", "ray.io/node-type": kind, "ray.io/group": group})


def elsewhere(namespace: str, **labels: str) -> Pod:
    """A pod of another namespace."""
    return Pod(labels, {"kubernetes.io/metadata.name": namespace})


HEAD, GATEWAY, CLASS_A = ray("headgroup", "head"), ray("gateway"), ray("class-a")
OPERATOR = Pod({"app.kubernetes.io/name": "kuberay-operator"}, {"kubernetes.io/metadata.name": "kuberay-operator"})
INGRESS = Pod({}, {"kubernetes.io/metadata.name": "any", "lego-serve/access": "ingress"})
MONITORING, STRANGER, DNS = elsewhere("monitoring"), elsewhere("default"), elsewhere("kube-system")
GCS_REDIS = Pod({"app.kubernetes.io/name": "lego-gcs-redis"})
JOBS_REDIS = Pod({"app.kubernetes.io/name": "lego-jobs-redis"})
NEIGHBOUR = Pod({"app": "something-else"})
API_SERVER, INTERNET = Pod(address="10.0.0.1"), Pod(address="93.184.216.34")
RAY_PORTS = (6379, 8265, 10001, 52365, 8076, 30000)

TABLE: tuple[tuple[Pod, Pod, int, bool], ...] = (
    *(
        (first, second, port, True)
        for first in (HEAD, GATEWAY, CLASS_A)
        for second in (HEAD, CLASS_A)
        for port in RAY_PORTS
    ),
    (GATEWAY, GATEWAY, 8001, True),
    (INGRESS, GATEWAY, 8000, True),
    (INGRESS, GATEWAY, 8001, False),
    *((INGRESS, HEAD, port, False) for port in (8000, *RAY_PORTS)),
    (OPERATOR, HEAD, 8265, True),
    (OPERATOR, HEAD, 6379, False),
    (OPERATOR, GATEWAY, 8265, False),
    (elsewhere("kuberay-operator"), HEAD, 8265, False),
    *(
        (STRANGER, target, port, False)
        for target in (HEAD, GATEWAY, CLASS_A)
        for port in (8000, 8001, 8080, *RAY_PORTS)
    ),
    *((NEIGHBOUR, target, port, False) for target in (HEAD, GATEWAY, CLASS_A) for port in (8000, *RAY_PORTS)),
    (HEAD, API_SERVER, 443, True),
    (CLASS_A, API_SERVER, 443, False),
    (GATEWAY, API_SERVER, 443, False),
    (HEAD, INTERNET, 443, False),
    (CLASS_A, INTERNET, 443, False),
    *((pod, DNS, 53, True) for pod in (HEAD, GATEWAY, CLASS_A)),
)
REDIS_TABLE: tuple[tuple[Pod, Pod, int, bool], ...] = (
    (HEAD, GCS_REDIS, 6379, True),
    (GATEWAY, JOBS_REDIS, 6379, True),
    (GATEWAY, GCS_REDIS, 6379, False),
    (HEAD, JOBS_REDIS, 6379, False),
    (CLASS_A, GCS_REDIS, 6379, False),
    (CLASS_A, JOBS_REDIS, 6379, False),
    (STRANGER, GCS_REDIS, 6379, False),
    (JOBS_REDIS, INTERNET, 443, False),
    (JOBS_REDIS, GCS_REDIS, 6379, False),
)
MONITORING_TABLE: tuple[tuple[Pod, Pod, int, bool], ...] = (
    (MONITORING, GATEWAY, 8001, True),
    (MONITORING, GATEWAY, 8000, False),
    (MONITORING, CLASS_A, 8080, True),
    (MONITORING, HEAD, 44217, True),
    (MONITORING, HEAD, 8265, False),
    (MONITORING, JOBS_REDIS, 6379, False),
)


def faults(manifests: Iterable[Manifest], table: Iterable[tuple[Pod, Pod, int, bool]]) -> Iterator[str]:
    """Yield the connections that are allowed and must not be, or the other way round."""
    policies = [each["spec"] for each in manifests if each["kind"] == "NetworkPolicy"]
    for source, target, port, is_wanted in table:
        is_open = _passes(policies, source, target, port)
        if is_open != is_wanted:
            yield f"{_told(source)} to {_told(target)}:{port} is {'open' if is_open else 'closed'}"


def _passes(policies: list[Any], source: Pod, target: Pod, port: int) -> bool:
    ways = (("Egress", "egress", "to", source, target), ("Ingress", "ingress", "from", target, source))
    return all(_one_way(policies, kind, rules, peers, own, other, port) for kind, rules, peers, own, other in ways)


def _one_way(policies: list[Any], kind: str, rules: str, peers: str, own: Pod, other: Pod, port: int) -> bool:
    """Whether policies of one direction let a pod of ours talk to the other; pods elsewhere have none here."""
    if own.address is not None or own.namespace is not OWN:
        return True
    chosen = [each for each in policies if kind in each["policyTypes"] and selects(each["podSelector"], own.labels)]
    if not chosen:
        return True
    return any(
        (peers not in rule or any(is_peer(peer, other) for peer in rule[peers]))
        and ("ports" not in rule or any(each["port"] == port for each in rule["ports"]))
        for policy in chosen
        for rule in policy.get(rules, ())
    )


def is_peer(peer: Mapping[str, Any], pod: Pod) -> bool:
    """Whether a policy's peer means this end of a connection."""
    if "ipBlock" in peer:
        return pod.address is not None and ip_address(pod.address) in ip_network(peer["ipBlock"]["cidr"])
    if pod.address is not None:
        return False
    namespaces = peer.get("namespaceSelector")
    is_there = pod.namespace is OWN if namespaces is None else selects(namespaces, pod.namespace)
    return is_there and selects(peer.get("podSelector", {}), pod.labels)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a selector of labels chooses these."""
    wanted = selector.get("matchLabels", {}).items()
    among = all(labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", ()))
    return among and all(labels.get(key) == value for key, value in wanted)


def _told(pod: Pod) -> str:
    if pod.address is not None:
        return pod.address
    labels = pod.labels.get("ray.io/group") or pod.labels.get("app.kubernetes.io/name") or "a pod"
    return f"{labels} ({pod.namespace.get('kubernetes.io/metadata.name')})"
