"""The inventory of what an image holds (an SBOM by CycloneDX): complete, or nobody can look a vulnerability up."""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from deploy.checks.tools import HERE, run

PROJECT = HERE.parent / "pyproject.toml"
EXTRAS = ("worker", "otel")  # of the images


def faults(environment: Path = Path(sys.prefix)) -> Iterator[str]:
    """Yield what a Python environment's inventory lacks of that which the images' parts need."""
    done = run("cyclonedx-py", "environment", "--no-validate", "--output-reproducible", "--of", "JSON", environment)
    if done.returncode != 0:
        yield f"{environment}: {done.stderr.strip().splitlines()[-1]}"
        return
    parts = json.loads(done.stdout).get("components", [])
    yield from (f"inventory: {part['name']} has no version" for part in parts if not part.get("version"))
    known = {_plain(part["name"]) for part in parts if "purl" in part}
    yield from (f"inventory: {name} is missing" for name in sorted(needed() - known))


def needed(project: Path = PROJECT) -> set[str]:
    """The names of what the project needs, with the extras of the images."""
    table = tomllib.loads(project.read_text())["project"]
    words = [*table["dependencies"], *(each for extra in EXTRAS for each in table["optional-dependencies"][extra])]
    return {_plain(re.split(r"[\[<>=!~; ]", word, maxsplit=1)[0]) for word in words}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
