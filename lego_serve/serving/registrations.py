"""What was registered at run time, kept in a small file so that it outlives the process that registered it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from lego_serve.errors import CheckpointError, NodeError


class Registrations:
    """Names and the paths they stand for; in memory alone where there is no file."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def read(self) -> dict[str, str]:
        """What is registered.  Raises CheckpointError for a file that holds something else."""
        if self._file is None:
            return {}
        try:
            said = json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            said = None
        if not isinstance(said, dict) or not all(isinstance(path, str) for path in said.values()):
            raise CheckpointError(f"{self._file} holds no registered adapters; mend it, or remove it to begin anew")
        return said

    def write(self, paths: Mapping[str, str]) -> None:
        """Keep these in place of what was kept; whoever reads gets the old or the new whole.  Raises NodeError."""
        if self._file is None:
            return
        new = self._file.with_name(f"{self._file.name}.new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(dict(paths), indent=1) + "\n")
            os.replace(new, self._file)
        except OSError as error:
            said = "The registry of adapters could not be written; nothing was changed."
            raise NodeError(said, code="registry_not_written") from error
