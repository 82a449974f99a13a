"""Whether a linear layer and its GELU are faster in one pass than in two, in bf16 on this CPU."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from benchmarks.engine.report import Report
from benchmarks.engine.timing import Patience, Quartiles, ratios, take_turns
from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.layers import gelu_tanh

ROWS = (32, 96, 384, 768, 2304)  # a text of lego-tiny, an edit's rows, those of four and eight, four images of 256
LAYERS = ((128, 512), (1536, 6144))  # lego-tiny's and SD3 medium's
COLUMNS = ("layer", "rows", "product, ms", "then GELU, ms", "in one pass, ms", "over two", "error over two")


@dataclass(frozen=True, slots=True)
class GeluRow:
    """One layer and number of rows: seconds of the product alone, of both in turn, and of both in one pass.

    ``error_ratio``: the largest error of one pass against float64, over that of two.
    """

    inputs: int
    outputs: int
    rows: int
    product_s: Quartiles
    two_s: Quartiles
    one_s: Quartiles
    over_two: Quartiles
    error_ratio: float

    def cells(self) -> list[str]:
        """Return the row of the table, in the order of COLUMNS."""
        times = [side.text(1e3, 2) for side in (self.product_s, self.two_s, self.one_s)]
        layer = f"{self.inputs} to {self.outputs}"
        return [layer, str(self.rows), *times, self.over_two.text(1, 2), f"{self.error_ratio:.2f}"]


def measure_gelu(layers: Sequence[tuple[int, int]], rows: Sequence[int], patience: Patience) -> list[GeluRow]:
    """Measure every layer with every number of rows, the sides in turn; skip those where one pass is impossible."""
    results = [_measure(inputs, outputs, count, patience) for inputs, outputs in layers for count in rows]
    return [row for row in results if row is not None]


def gelu_report(rows: Sequence[GeluRow]) -> Report:
    """Return the table, and the layers where one pass is slower."""
    slower = [f"{row.inputs} to {row.outputs} over {row.rows} rows" for row in rows if row.over_two.low > 1]
    remark = "One pass is nowhere slower, beyond its quartiles." if not slower else f"Slower: {'; '.join(slower)}."
    if not rows:
        remark = "This CPU does not multiply bf16, or its torch has no oneDNN: there is no one pass."
    return Report("ms a linear layer and its GELU, bf16", COLUMNS, [row.cells() for row in rows], rows, [remark])


@torch.inference_mode()
def _measure(inputs: int, outputs: int, rows: int, patience: Patience) -> GeluRow | None:
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=draw).mul_(scale).bfloat16()
        for shape, scale in (((rows, inputs), 1.0), ((outputs, inputs), inputs**-0.5), (outputs, 0.1))
    )
    ops = LinearOps()
    fused = ops.linear_gelu(x, weight, bias)
    if fused is None:
        return None
    exact = F.gelu(F.linear(x.double(), weight.double(), bias.double()), approximate="tanh")
    runs: dict[str, Callable[[], object]] = {
        "product": lambda: F.linear(x, weight, bias),
        "two": lambda: gelu_tanh(F.linear(x, weight, bias)),
        "one": lambda: ops.linear_gelu(x, weight, bias),
    }
    two_passes = gelu_tanh(F.linear(x, weight, bias))
    times = take_turns(runs, torch.device("cpu"), patience)
    return GeluRow(
        inputs=inputs,
        outputs=outputs,
        rows=rows,
        product_s=Quartiles.of(times["product"]),
        two_s=Quartiles.of(times["two"]),
        one_s=Quartiles.of(times["one"]),
        over_two=ratios(times["one"], times["two"]),
        error_ratio=float((fused - exact).abs().max() / (two_passes - exact).abs().max()),
    )
