"""What a pod is to whoever runs it: image, command, environment, files, probes and how it ends."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
Secrets = Mapping[str, Mapping[str, str]]  # name, key, value


@dataclass(frozen=True, slots=True)
class Probe:
    """How a kubelet asks a container: by HTTP, by a connection or by a command, and how often until it counts."""

    port: int = 0
    path: str | None = None
    command: tuple[str, ...] = ()
    delay_s: float = 0.0
    period_s: float = 10.0
    timeout_s: float = 1.0
    failures: int = 3


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume in a container; ``source`` is ``emptyDir``, ``configMap/NAME``, ``secret/NAME`` or ``claim/NAME``."""

    path: str
    source: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Pod:
    """One container with what surrounds it; sizes in bytes, times in seconds."""

    name: str
    labels: Mapping[str, str]
    image: str
    entrypoint: tuple[str, ...]
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    probes: Mapping[str, Probe]
    user: int
    memory_bytes: int
    shared_memory_bytes: int | None = None
    pre_stop_s: float = 0.0
    grace_s: float = 30.0

    @property
    def group(self) -> str:
        """Which pods it is one of."""
        return self.labels.get("ray.io/group") or self.labels["app.kubernetes.io/name"]


def size(quantity: str | int) -> int:
    """Kubernetes' quantity of memory in bytes.  Raises ValueError."""
    found = re.fullmatch(r"(\d+)([kMG]i?|)", str(quantity))
    if found is None or found[2] not in UNITS:
        raise ValueError(f"not a quantity of memory: {quantity}")
    return int(found[1]) * UNITS[found[2]]


def pod(name: str, template: Mapping[str, Any], secrets: Secrets) -> Pod:
    """The pod of a template with one container that matters.  Raises KeyError for a secret that is not there."""
    spec = template["spec"]
    container = spec["containers"][0]
    environment = _environment(container, secrets)
    return Pod(
        name=name,
        labels=template["metadata"]["labels"],
        image=container["image"],
        entrypoint=tuple(_filled(word, environment) for word in container.get("command", ())),
        arguments=tuple(_filled(word, environment) for word in container.get("args", ())),
        environment=environment,
        mounts=_mounts(name, spec, container),
        probes=_probes(container),
        user=spec["securityContext"]["runAsUser"],
        memory_bytes=size(container["resources"]["limits"]["memory"]),
        pre_stop_s=container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0),
        grace_s=spec.get("terminationGracePeriodSeconds", 30),
    )


def _environment(container: Mapping[str, Any], secrets: Secrets) -> dict[str, str]:
    found = {}
    for each in container.get("env", ()):
        reference = each.get("valueFrom", {}).get("secretKeyRef")
        found[each["name"]] = (
            each.get("value", "") if reference is None else secrets[reference["name"]][reference["key"]]
        )
    return found


def _filled(word: str, environment: Mapping[str, str]) -> str:
    return re.sub(r"\$\(([A-Z_]+)\)", lambda found: environment.get(found[1], found[0]), word)


def _mounts(pod: str, spec: Mapping[str, Any], container: Mapping[str, Any]) -> tuple[Mount, ...]:
    sources = {volume["name"]: _source(volume) for volume in spec.get("volumes", ())}
    return tuple(
        Mount(each["mountPath"], sources.get(each["name"], f"claim/{each['name']}-{pod}"), each.get("readOnly", False))
        for each in container.get("volumeMounts", ())
    )


def _source(volume: Mapping[str, Any]) -> str:
    if "configMap" in volume:
        return f"configMap/{volume['configMap']['name']}"
    if "secret" in volume:
        return f"secret/{volume['secret']['secretName']}"
    if "persistentVolumeClaim" in volume:
        return f"claim/{volume['persistentVolumeClaim']['claimName']}"
    return f"emptyDir/{volume['name']}"


def _probes(container: Mapping[str, Any]) -> dict[str, Probe]:
    ports = {each["name"]: each["containerPort"] for each in container.get("ports", ())}
    found = {}
    for kind in ("startup", "liveness", "readiness"):
        if (each := container.get(f"{kind}Probe")) is not None:
            how = each.get("httpGet") or each.get("tcpSocket") or {}
            port = how.get("port", 0)
            found[kind] = Probe(
                port=ports.get(port, port),
                path=how.get("path"),
                command=tuple(each.get("exec", {}).get("command", ())),
                delay_s=each.get("initialDelaySeconds", 0),
                period_s=each.get("periodSeconds", 10),
                timeout_s=each.get("timeoutSeconds", 1),
                failures=each.get("failureThreshold", 3),
            )
    return found
