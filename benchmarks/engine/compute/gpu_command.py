"""``python -m benchmarks.engine --gpu``: shows each row once it is measured, so that none is lost."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.engine.compute.gpu import GpuRow, Skipped

KERNELS = Path(__file__).parents[3] / "kernels"
NO_GPU, DISAGREES = 2, 1  # exit statuses


def run_on_gpu(arguments: Sequence[str]) -> int:
    """Measure, and return the exit status."""
    options = _options(arguments)
    sys.path.append(str(KERNELS))  # where they are not installed
    import torch

    if not torch.cuda.is_available():
        print("torch finds no GPU here", file=sys.stderr)
        return NO_GPU
    from benchmarks.engine.checks import Disagreement
    from benchmarks.engine.compute.gpu import measure_models

    table = Table(options.json, options.markdown)
    try:
        measure_models(torch.device("cuda"), table.show, began_s=time.monotonic())
    except Disagreement as error:
        print(f"Nothing more was timed: {error}", flush=True)
        return DISAGREES
    finally:
        table.write()
    return 0


class Table:
    """The rows so far, printed one by one and kept in files that are whole after each."""

    def __init__(
        self, to_json: Path | None, to_markdown: Path | None, say: Callable[[str], None] | None = None
    ) -> None:
        self._json, self._markdown = to_json, to_markdown
        self._say = say or (lambda line: print(line, flush=True))
        self._found: list[GpuRow | Skipped] = []
        self._checks: dict[str, Any] = {}

    def show(self, model: str, found: "GpuRow | Skipped | dict[str, Any]") -> None:
        """Show what was found of a model: what was checked of it, a row, or why there is none."""
        if isinstance(found, dict):
            self._checks[model] = found
            self._say(f"{model}: checked, {found}")
            return
        self._found.append(found)
        self._say(found.text())
        self.write()

    def write(self) -> None:
        """Write what there is so far into the files."""
        import torch

        from benchmarks.engine.compute.gpu import gpu_report
        from benchmarks.engine.report import machine_info, write_files

        if torch.cuda.is_available():
            report = gpu_report(self._found)
            report.metadata.update(machine_info(torch.device("cuda")) | {"models": self._checks})
            write_files([report], self._json, self._markdown)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine --gpu", description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    return parser.parse_args(arguments)
