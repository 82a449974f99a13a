"""Strict schemas of what we use of kinds that are not Kubernetes' own; a key that is not here is a misspelt one."""

from typing import Any

TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "integer", "minimum": 0}
FLAG: dict[str, Any] = {"type": "boolean"}
ANY: dict[str, Any] = {}


def closed(required: str = "", /, **properties: Any) -> dict[str, Any]:
    """An object with these keys and no others; ``required`` are names of keys."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def many(item: dict[str, Any]) -> dict[str, Any]:
    """A list of at least one."""
    return {"type": "array", "items": item, "minItems": 1}


def texts(**known: Any) -> dict[str, Any]:
    """A mapping of words to words."""
    return {"type": "object", "properties": known, "additionalProperties": TEXT}


METADATA = closed("name", name=TEXT, namespace=TEXT, labels=texts(), annotations=texts())
TEMPLATE = closed("spec", metadata={"type": "object"}, spec={"type": "object"})  # checked as a pod
PARAMS = texts()


def kind(version: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A whole manifest."""
    return closed(
        "apiVersion kind metadata spec",
        apiVersion={"const": version},
        kind={"const": name},
        metadata=METADATA,
        spec=spec,
    )


UPGRADE = closed(
    "type",
    type={"enum": ["None", "NewCluster", "NewClusterWithIncrementalUpgrade"]},
    clusterUpgradeOptions=closed(
        "gatewayClassName stepSizePercent intervalSeconds",
        gatewayClassName=TEXT,
        stepSizePercent=NUMBER,
        intervalSeconds=NUMBER,
        maxSurgePercent=NUMBER,
    ),
)
SECRET_KEY = closed("valueFrom", valueFrom=closed("secretKeyRef", secretKeyRef=closed("name key", name=TEXT, key=TEXT)))
CLUSTER = closed(
    "rayVersion authOptions headGroupSpec workerGroupSpecs",
    rayVersion=TEXT,
    authOptions=closed("mode", mode={"enum": ["token", "disabled"]}, secretName=TEXT),
    gcsFaultToleranceOptions=closed("redisAddress", redisAddress=TEXT, redisPassword=SECRET_KEY),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=closed(
        version={"const": "v2"},
        imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
        idleTimeoutSeconds=NUMBER,
        resources=ANY,
        securityContext=ANY,
        volumeMounts=many(ANY),
    ),
    headGroupSpec=closed("rayStartParams template", rayStartParams=PARAMS, template=TEMPLATE),
    workerGroupSpecs=many(
        closed(
            "groupName replicas minReplicas maxReplicas rayStartParams template",
            groupName={"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"},
            replicas=NUMBER,
            minReplicas=NUMBER,
            maxReplicas=NUMBER,
            idleTimeoutSeconds=NUMBER,
            priority=NUMBER,
            labels=texts(),
            rayStartParams=PARAMS,
            template=TEMPLATE,
        )
    ),
)
RAY_SERVICE = closed(
    "serveConfigV2 rayClusterConfig",
    excludeHeadPodFromServeSvc=FLAG,
    rayClusterDeletionDelaySeconds=NUMBER,
    upgradeStrategy=UPGRADE,
    serveConfigV2=TEXT,
    rayClusterConfig=CLUSTER,
)
POD_MONITOR = closed(
    "selector podMetricsEndpoints",
    selector=closed("matchLabels", matchLabels=texts()),
    podTargetLabels=many(TEXT),
    podMetricsEndpoints=many(closed("port", port=TEXT, path=TEXT, interval=TEXT)),
)
RULE = {
    "anyOf": [
        closed("record expr", record=TEXT, expr=TEXT),
        closed(
            "alert expr labels annotations", alert=TEXT, expr=TEXT, labels=texts(), annotations=texts(), **{"for": TEXT}
        ),
    ]
}
RULES = closed("groups", groups=many(closed("name rules", name=TEXT, rules=many(RULE))))
ROUTE = closed(
    "parentRefs rules",
    parentRefs=many(closed("name", name=TEXT, namespace=TEXT)),
    hostnames=many(TEXT),
    rules=many(
        closed(
            "matches backendRefs",
            matches=many(closed("path", path=closed("type value", type={"enum": ["PathPrefix", "Exact"]}, value=TEXT))),
            backendRefs=many(closed("name port", name=TEXT, port=NUMBER)),
            timeouts=closed(request=TEXT, backendRequest=TEXT),
        )
    ),
)
CUSTOM = {
    "ray.io/v1/RayService": kind("ray.io/v1", "RayService", RAY_SERVICE),
    "monitoring.coreos.com/v1/PodMonitor": kind("monitoring.coreos.com/v1", "PodMonitor", POD_MONITOR),
    "monitoring.coreos.com/v1/PrometheusRule": kind("monitoring.coreos.com/v1", "PrometheusRule", RULES),
    "gateway.networking.k8s.io/v1/HTTPRoute": kind("gateway.networking.k8s.io/v1", "HTTPRoute", ROUTE),
}
