"""How tests run a command of the engine's benchmark."""

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from benchmarks.engine.commands import app


def run(folder: Path, *words: str) -> tuple[Result, list[dict[str, object]], str]:
    """A command's result, its rows and its markdown."""
    files = ["--json", str(folder / "rows.json"), "--markdown", str(folder / "table.md")]
    done = CliRunner().invoke(app, [*words, "--quick", *files])
    assert done.exit_code == 0, done.output
    [report] = json.loads((folder / "rows.json").read_text())
    return done, report["rows"], (folder / "table.md").read_text()
