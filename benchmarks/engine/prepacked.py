"""Whether weights packed ahead of time, as oneDNN and MKL offer it, make linear layers faster on this CPU."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from benchmarks.engine.report import Report
from benchmarks.engine.timing import Patience, Quartiles, ratios, take_turns

ROWS = (192, 576, 2304)  # a lane of lego-tiny of 128 x 128 and of 256 x 256 pixels, and four of these
LAYERS = ((128, 384), (128, 512), (512, 128), (1536, 4608), (1536, 6144), (6144, 1536))  # lego-tiny's and SD3 medium's
COLUMNS = ("layer", "rows", "ms", "GFLOP/s", "oneDNN's layout", "MKL's layout")


@dataclass(frozen=True, slots=True)
class PrepackedRow:
    """One layer and number of rows: seconds with plain weights, and the ratio to that of each library that is there."""

    inputs: int
    outputs: int
    rows: int
    plain_s: Quartiles
    one_dnn: Quartiles | None
    mkl: Quartiles | None

    def cells(self) -> list[str]:
        """Return the row of the table, in the order of COLUMNS."""
        speed = 2e-9 * self.rows * self.inputs * self.outputs / self.plain_s.median
        ratio_cells = ["-" if ratio is None else ratio.text(1, 2) for ratio in (self.one_dnn, self.mkl)]
        layer = f"{self.inputs} to {self.outputs}"
        return [layer, str(self.rows), self.plain_s.text(1e3, 2), f"{speed:.0f}", *ratio_cells]


def measure_prepacked(layers: Sequence[tuple[int, int]], rows: Sequence[int], patience: Patience) -> list[PrepackedRow]:
    """Measure every layer with every number of rows, the sides in turn."""
    return [_measure(inputs, outputs, count, patience) for inputs, outputs in layers for count in rows]


def prepacked_report(rows: Sequence[PrepackedRow]) -> Report:
    """Return the table, and in how many cases a library is faster."""
    library_ratios = [ratio for row in rows for ratio in (row.one_dnn, row.mkl) if ratio is not None]
    faster = sum(ratio.high < 0.95 for ratio in library_ratios)
    where = f"in {faster} of {2 * len(rows)} cases" if faster else "nowhere"
    remark = f"Laid out ahead of time a layer is faster by a twentieth or more, beyond its quartiles, {where}."
    return Report("ms a linear layer, fp32", COLUMNS, [row.cells() for row in rows], rows, [remark])


@torch.inference_mode()
def _measure(inputs: int, outputs: int, rows: int, patience: Patience) -> PrepackedRow:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator) for shape in ((rows, inputs), (outputs, inputs), outputs)
    )
    runs: dict[str, Callable[[], torch.Tensor]] = {"plain": lambda: F.linear(x, weight, bias)}
    if torch.backends.mkldnn.is_available():
        reordered = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        runs["one_dnn"] = lambda: torch.ops.mkldnn._linear_pointwise(x, reordered, bias, "none", [], "")
    if torch.backends.mkl.is_available():
        packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
        runs["mkl"] = lambda: torch.ops.mkl._mkl_linear(x, packed, weight, bias, rows)
    for run in runs.values():
        torch.testing.assert_close(run(), runs["plain"](), atol=1e-2, rtol=1e-3)
    times = take_turns(runs, torch.device("cpu"), patience)
    library_ratios = {name: ratios(times[name], times["plain"]) for name in runs if name != "plain"}
    return PrepackedRow(
        inputs=inputs,
        outputs=outputs,
        rows=rows,
        plain_s=Quartiles.of(times["plain"]),
        one_dnn=library_ratios.get("one_dnn"),
        mkl=library_ratios.get("mkl"),
    )
