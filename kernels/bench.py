"""What each op costs next to its reference: ``python kernels/bench.py [--device cpu|cuda] [--json FILE]``.

Every case is first compared with the reference in float64, so that no wrong result is timed.  GB/s counts each argument
read once and the result written once: the least that any implementation moves.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import lego_kernels
from lego_kernels import examples, reference

# Half precision rounds terms of order four before they are added, and some of those cancel; in float32 the terms
# carry the error of approximate roots and of sums in another order (64 ulps are 8e-6).
BUDGET_ULPS = {torch.float32: 64.0, torch.bfloat16: 16.0}
MIN_RUNS = 5
# (T, D, B): lego-tiny's batch of eight, SD3.5-medium at 512 px, FLUX at 1024 px with its text
ROWS = {"cpu": ((512, 128, 16), (2048, 256, 16), (1024, 1536, 2)), "cuda": ((2048, 256, 16), (4608, 3072, 2))}
# (T, heads, head width) of these
HEADS = {"cpu": ((512, 4, 32), (2048, 4, 64), (1024, 24, 64)), "cuda": ((2048, 4, 64), (4608, 24, 128))}
# (channels, lines of tokens, tokens a line, active): a mask of 0.35
LATENTS = {"cpu": ((16, 16, 16, 90), (16, 64, 64, 1433)), "cuda": ((16, 64, 64, 1433), (16, 128, 128, 5734))}
# (lanes, rows a lane, width, rank): each lane with an adapter of its own
LOW_RANK = {"cpu": ((8, 96, 256, 16), (8, 288, 256, 16)), "cuda": ((8, 544, 1536, 16), (2, 4608, 3072, 16))}


@dataclass(frozen=True, slots=True)
class Case:
    """An op, its reference and the arguments of both."""

    op: Callable[..., reference.Result]
    reference: Callable[..., reference.Result]
    size: tuple[int, ...]
    dtype: torch.dtype
    arguments: examples.Arguments


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the table."""

    op: str
    size: str
    dtype: str
    eager_us: float
    op_us: float
    op_gb_per_s: float
    error_ulps: float


def main() -> None:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=0.3, help="measure a case on a CPU for at least this long")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        results = [_measure(case, options.seconds) for case in _cases(options.device)]
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU, one thread"
    print(f"{name}, torch {torch.__version__}")
    print(f"{'op':24}{'size':>16}{'dtype':>10}{'eager us':>12}{'op us':>12}{'speedup':>9}{'GB/s':>9}{'ulps':>7}")
    for row in results:
        print(
            f"{row.op:24}{row.size:>16}{row.dtype:>10}{row.eager_us:12.1f}{row.op_us:12.1f}"
            f"{row.eager_us / row.op_us:9.2f}{row.op_gb_per_s:9.1f}{row.error_ulps:7.2f}"
        )
    if options.json:
        rows = {"device": name, "torch": torch.__version__, "rows": [asdict(row) for row in results]}
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def _cases(device: str) -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16):
        for size in ROWS[device]:
            for name in ("norm_modulate", "gated_residual", "residual_norm_modulate"):
                arguments = getattr(examples, name)(*size, dtype, device)
                yield Case(getattr(lego_kernels, name), getattr(reference, name), size, dtype, arguments)
            for name in ("int8_rows", "sparse24"):
                arguments = getattr(examples, name)(*size[:2], dtype, device)
                yield Case(getattr(lego_kernels, name), getattr(reference, name), size[:2], dtype, arguments)
        for size in HEADS[device]:
            arguments = examples.qk_norm_rope(*size, dtype, device)
            yield Case(lego_kernels.qk_norm_rope, reference.qk_norm_rope, size, dtype, arguments)
        for shape in LATENTS[device]:
            for name in ("gather_rows", "scatter_rows"):
                arguments = getattr(examples, name)(*shape, dtype, device)
                yield Case(getattr(lego_kernels, name), getattr(reference, name), shape, dtype, arguments)
        for lanes, rows, width, rank in LOW_RANK[device]:
            for name in ("lora_shrink", "lora_expand"):
                arguments = getattr(examples, name)([rows] * lanes, width, [rank] * lanes, dtype, device)
                shape = (lanes, rows, width, rank)
                yield Case(getattr(lego_kernels, name), getattr(reference, name), shape, dtype, arguments)


def _measure(case: Case, least_s: float) -> Result:
    """Check a case, then time it.  Raises SystemExit where the op is further from float64 than the budget."""
    name, size = case.op.__name__, "x".join(map(str, case.size))
    exact = case.reference(**examples.widened(case.arguments))  # first: an op may work in place
    result = case.op(**case.arguments)
    error_ulps = reference.ulps(result, exact)
    budget_ulps = BUDGET_ULPS[case.dtype]
    if not error_ulps <= budget_ulps:  # not `>`: NaN must fail too
        raise SystemExit(f"{name} {size} {case.dtype} is {error_ulps:.1f} ulps off, the budget is {budget_ulps}")
    eager_s, op_s = _medians_s(
        [lambda: case.reference(**case.arguments), lambda: case.op(**case.arguments)],
        reference.parts_of(result)[0].device,
        least_s,
    )
    taken = [part for value in case.arguments.values() for part in (value if isinstance(value, tuple) else (value,))]
    moved = [*reference.parts_of(result), *taken]
    moved_bytes = sum(value.nbytes for value in moved if torch.is_tensor(value))
    dtype = str(case.dtype).removeprefix("torch.")
    return Result(
        op=name,
        size=size,
        dtype=dtype,
        eager_us=eager_s * 1e6,
        op_us=op_s * 1e6,
        op_gb_per_s=moved_bytes / op_s / 1e9,
        error_ulps=error_ulps,
    )


def _medians_s(runs: Sequence[Callable[[], object]], device: torch.device, least_s: float) -> list[float]:
    """Return the median time of each run; on a CPU they take turns, so that other load slows all of them alike."""
    if device.type == "cuda":
        from triton.testing import do_bench  # empties the L2 cache between runs

        return [float(do_bench(run, return_mode="median")) / 1e3 for run in runs]
    for run in runs:
        run()
    times_s: list[list[float]] = [[] for _ in runs]
    while len(times_s[0]) < MIN_RUNS or sum(map(sum, times_s)) < least_s:
        for run, times in zip(runs, times_s, strict=True):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in times_s]


if __name__ == "__main__":
    main()
