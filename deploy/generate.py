"""Writes what follows from other files of the repository: ``make deploy-files``, or ``python -m deploy.generate``."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from deploy.grafana import dashboard
from lego_serve.cluster.serve_config import serve_config

HERE = Path(__file__).parent
KUBERNETES = HERE / "kubernetes"
MOUNTED = Path("/etc/lego-serve/config.yaml")
WRITTEN = "# Written by `make deploy-files`.\n"


class _Text(yaml.SafeDumper):
    """Writes text of several lines as a block."""


_Text.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def files() -> Mapping[Path, str]:
    """What each of these files is to hold."""
    overlays = [path.parent for path in sorted(KUBERNETES.glob("overlays/*/config.yaml"))]
    found = {overlay / "serve-config.yaml": patch(overlay / "config.yaml") for overlay in overlays}
    found[KUBERNETES / "components" / "monitoring" / "rules.yaml"] = _rules()
    found[HERE / "grafana" / "lego-serve.json"] = dashboard.text()
    return found


def patch(config: Path) -> str:
    """A patch that gives a RayService the nodes of a configuration."""
    document = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "lego"},
        "spec": {"serveConfigV2": serve_config(config, MOUNTED)},
    }
    return WRITTEN + _yaml(document)


def _rules() -> str:
    """The alert rules as the Prometheus Operator takes them."""
    rules = yaml.safe_load((HERE / "prometheus" / "rules.yaml").read_text())
    metadata = {"name": "lego-serve"}
    document = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": metadata, "spec": rules}
    return WRITTEN + _yaml(document)


def _yaml(document: object) -> str:
    return str(yaml.dump(document, Dumper=_Text, sort_keys=False, width=120))


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
