"""Files that the zoo's commands write beside their tables."""

import json
from pathlib import Path


def write_json(value: object, file: Path | None) -> None:
    """Write a value as JSON, where a file is named."""
    if file is not None:
        file.write_text(json.dumps(value) + "\n")
