"""What chaos tests measure: a JSON object a line in the file that LEGO_CHAOS_FIGURES names; nowhere without."""

import json
import os
import time
from pathlib import Path


def note(subject: str, what: str, **figures: float | int | str) -> None:
    """Write down what was injected, how often, and what came of it."""
    if path := os.environ.get("LEGO_CHAOS_FIGURES"):
        rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()}
        load = round(os.getloadavg()[0], 1)
        line = {"subject": subject, "what": what, **rounded, "load": load, "date": time.strftime("%Y-%m-%d")}
        with Path(path).open("a") as file:
            file.write(json.dumps(line) + "\n")
