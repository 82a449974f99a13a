"""Prints what the package here needs, with the extras that are named: an image keeps it when the source changes."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = [each for extra in sys.argv[1:] for each in project["optional-dependencies"][extra]]
sys.stdout.write("\n".join([*project["dependencies"], *extras]) + "\n")
