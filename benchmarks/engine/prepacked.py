"""Whether weights laid out ahead of time, as oneDNN and MKL offer it, make linear layers faster on this CPU."""

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
    """One layer and number of rows: its seconds as it is, and what others take of that (None: there is no such)."""

    inputs: int
    outputs: int
    rows: int
    plain_s: Quartiles
    one_dnn: Quartiles | None
    mkl: Quartiles | None

    def cells(self) -> list[str]:
        """As strings, in the order of COLUMNS."""
        speed = 2e-9 * self.rows * self.inputs * self.outputs / self.plain_s.median
        told = ["-" if each is None else each.told(1, 2) for each in (self.one_dnn, self.mkl)]
        return [f"{self.inputs} to {self.outputs}", str(self.rows), self.plain_s.told(1e3, 2), f"{speed:.0f}", *told]


def measure_prepacked(layers: Sequence[tuple[int, int]], rows: Sequence[int], patience: Patience) -> list[PrepackedRow]:
    """Every layer over every number of rows, the sides taking turns."""
    return [_measured(inputs, outputs, count, patience) for inputs, outputs in layers for count in rows]


def prepacked_report(rows: Sequence[PrepackedRow]) -> Report:
    """The table."""
    faster = [row for row in rows for each in (row.one_dnn, row.mkl) if each is not None and each.high < 0.95]
    told = "nowhere" if not faster else f"in {len(faster)} of {2 * len(rows)} cases"
    remark = f"Laid out ahead of time a layer is faster by a twentieth or more, beyond its quartiles, {told}."
    return Report("ms a linear layer, fp32", COLUMNS, [row.cells() for row in rows], rows, [remark])


@torch.inference_mode()
def _measured(inputs: int, outputs: int, rows: int, patience: Patience) -> PrepackedRow:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator) for shape in ((rows, inputs), (outputs, inputs), outputs)
    )
    runs: dict[str, Callable[[], torch.Tensor]] = {"plain": lambda: F.linear(x, weight, bias)}
    if torch.backends.mkldnn.is_available():
        ours = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        runs["one_dnn"] = lambda: torch.ops.mkldnn._linear_pointwise(x, ours, bias, "none", [], "")
    if torch.backends.mkl.is_available():
        packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
        runs["mkl"] = lambda: torch.ops.mkl._mkl_linear(x, packed, weight, bias, rows)
    for run in runs.values():
        torch.testing.assert_close(run(), runs["plain"](), atol=1e-2, rtol=1e-3)
    times = take_turns(runs, torch.device("cpu"), patience)
    others = {name: ratios(times[name], times["plain"]) for name in runs if name != "plain"}
    return PrepackedRow(inputs, outputs, rows, Quartiles.of(times["plain"]), others.get("one_dnn"), others.get("mkl"))
