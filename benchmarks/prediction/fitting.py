"""Fits the profile of costs from a calibration: linear in rows, pairs and pixels, by least squares of relative errors.

``seconds = (constant + rows x row + pairs x pair) x (1 + crowding x company)``: for a given crowding that is linear, so
the crowding is searched over the errors that the best linear fit leaves.  Rates are not negative.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.prediction.costs import TEXT_ROWS, AddonShares, Amount, MonolithCosts, Profile, ServerCosts, step_work
from benchmarks.prediction.recording import LEGO, MONOLITH, Group, Pass, Shape, between_steps_s, passes_of, spans_of
from lego_serve.core.costs import Rates
from lego_serve.errors import ConfigError
from loadgen.stats import median

Numbers = npt.NDArray[np.float64]
MOST_CROWDING = 2.0
GOLDEN = (5**0.5 - 1) / 2
GRID = 20
SEARCHES = 20
OUTLIER = 4.0  # times the median error: such steps, in which the machine did something else, are left out
TRIMS = 3
LEAST_ERROR = 0.01
LEAST_WEIGHED = 1e-3  # of the largest value: smaller ones weigh no more than this


def fit_profile(groups: Sequence[Group], cores: int, measured_at: str, text_rows: int = TEXT_ROWS) -> Profile:
    """Fit both systems.  Raises ConfigError where a part of them was not calibrated."""
    lego = [group for group in groups if group.system == LEGO]
    monolith = [group for group in groups if group.system == MONOLITH]
    threads = sorted({group.threads for group in monolith})
    return Profile(
        tuple(sorted({group.load for group in groups})),
        measured_at,
        cores,
        fit_server(lego, text_rows),
        {count: fit_monolith([g for g in monolith if g.threads == count], text_rows) for count in threads},
        text_rows,
    )


def fit_server(groups: Sequence[Group], text_rows: int) -> ServerCosts:
    """Fit lego_serve from the spans of its jobs."""
    plain = [group for group in groups if group.shape.addons == (0, 0)]
    passes = [each for group in plain for each in passes_of(group)]
    alone = [group for group in plain if group.outstanding == 1]
    if not passes or not alone:
        raise ConfigError("the calibration has no steps of lego_serve alone; run `calibrate` with the server's spans")
    rates, crowding = fit_steps(passes, text_rows)
    encodes = [(float(s["batch"]), float(s["run_s"])) for group in alone for s in spans_of(group, "encode")]
    decodes = [(float(g.shape.pixels), float(s["run_s"])) for g in alone for s in spans_of(g, "decode")]
    batches = [int(span["batch"]) for group in plain for span in spans_of(group, "encode")]
    handover_s = {
        kind: _median([float(span["transfer_s"]) for group in alone for span in spans_of(group, kind)])
        for kind in ("encode", "denoise", "decode")
    }
    return ServerCosts(
        _amount(encodes),
        rates,
        _amount(decodes),
        handover_s,
        _median([each for group in alone for each in _outside_s(group)]),
        _median([each for group in alone for each in between_steps_s(group)]),
        crowding,
        _server_shares(groups, rates, crowding, text_rows),
        max(batches, default=1),
        _median([group.ready_s for group in groups]),
    )


def fit_steps(passes: Sequence[Pass], text_rows: int) -> tuple[Rates, float]:
    """Return the rates of steps and by how much company slows them down."""
    works = [step_work(each.shape, AddonShares(), text_rows) for each in passes]
    features = np.array(
        [[1.0, each.lanes * work.rows, each.lanes * work.pairs] for each, work in zip(passes, works, strict=True)]
    )
    seconds = np.array([each.seconds for each in passes])
    company = np.array([each.company for each in passes])
    found, crowding = _crowded_fit(features, seconds, company)
    return Rates(row_s=float(found[1]), pair_s=float(found[2]), constant_s=float(found[0])), crowding


def fit_monolith(groups: Sequence[Group], text_rows: int) -> MonolithCosts:
    """Fit the baseline with one number of threads from whole requests, alone and with every replica at work."""
    plain = [(g, s) for g in groups if g.shape.addons == (0, 0) and g.outstanding <= g.replicas for s in g.latency_s]
    if not any(group.outstanding == 1 for group, _ in plain):
        raise ConfigError("the calibration has no requests of the baseline alone; run `calibrate` for its layouts")
    features = np.array([_image_features(group.shape, text_rows) for group, _ in plain])
    seconds = np.array([each for _, each in plain])
    company = np.array([float(group.outstanding - 1) for group, _ in plain])
    found, crowding = _crowded_fit(features, seconds, company)
    image, step = Amount(float(found[0]), float(found[1])), Rates(float(found[3]), float(found[4]), float(found[2]))

    def share(group: Group) -> float:
        work = step_work(group.shape, AddonShares(), text_rows)
        steps_s = group.shape.steps * (work.rows * step.row_s + work.pairs * step.pair_s)
        rest_s = image.seconds(group.shape.pixels) + group.shape.steps * step.constant_s
        return (_median(list(group.latency_s)) - rest_s) / steps_s - 1.0 if steps_s else 0.0

    alone = [group for group in groups if group.outstanding == 1]
    ready_s = _median([group.ready_s for group in groups])
    return MonolithCosts(groups[0].threads, image, step, crowding, _shares(alone, share), ready_s)


def _image_features(shape: Shape, text_rows: int) -> list[float]:
    """A whole image: a constant, its pixels, and of its steps the number, the rows and the pairs."""
    work, steps = step_work(shape, AddonShares(), text_rows), shape.steps
    return [1.0, float(shape.pixels), float(steps), float(steps * work.rows), float(steps * work.pairs)]


def _server_shares(groups: Sequence[Group], rates: Rates, crowding: float, text_rows: int) -> AddonShares:
    def share(group: Group) -> float:
        work = step_work(group.shape, AddonShares(), text_rows)
        own_s = work.rows * rates.row_s + work.pairs * rates.pair_s
        extras = [
            (each.seconds / (1.0 + crowding * each.company) - rates.constant_s) / (each.lanes * own_s) - 1.0
            for each in passes_of(group)
        ]
        return _median(extras)

    return _shares([group for group in groups if group.outstanding == 1], share)


def _shares(groups: Sequence[Group], share: Callable[[Group], float]) -> AddonShares:
    """Return by what share of its own work a step grows with each add-on; nothing where none were calibrated."""
    with_addons = [group for group in groups if group.shape.addons != (0, 0)]
    if not with_addons:
        return AddonShares()
    counts = np.array([[float(n) for n in group.shape.addons] for group in with_addons])
    grown = np.array([max(0.0, share(group)) for group in with_addons])
    found = _nonnegative(counts, grown)
    return AddonShares(float(found[0]), float(found[1]))


def _amount(points: Sequence[tuple[float, float]]) -> Amount:
    """Fit a constant and seconds a unit; a constant alone where all have as many units."""
    timed = [(units, seconds) for units, seconds in points if seconds > 0]
    if not timed:
        return Amount(0.0)
    seconds = np.array([each for _, each in timed])
    if len({units for units, _ in timed}) == 1:
        return Amount(_median([each for _, each in timed]))
    found = _trimmed_fit(np.array([[1.0, units] for units, _ in timed]), seconds)
    return Amount(float(found[0]), float(found[1]))


def _outside_s(group: Group) -> list[float]:
    """Return what requests that were alone took beyond their nodes: gateway, client, and the way between nodes."""
    return [
        max(0.0, latency_s - sum(s["to_s"] - s["from_s"] for s in job["spans"] if s["cache"] != "hit"))
        for latency_s, job in zip(group.latency_s, group.jobs, strict=False)
    ]


def _crowded_fit(features: Numbers, seconds: Numbers, company: Numbers) -> tuple[Numbers, float]:
    """Return the linear fit and the crowding of least error: the best of a grid, then a golden section around it.

    The errors of what was alone and of what had company count alike, however many there are of each, or the fit could
    leave the fewer out as outliers.
    """
    has_company = company > company.max() / 2
    if not has_company.any() or has_company.all():
        return _trimmed_fit(features, seconds), 0.0

    def error(crowding: float) -> float:
        own = seconds / (1.0 + crowding * company)
        errors = _errors(features, own, _trimmed_fit(features, own))
        return float(np.median(errors[has_company]) + np.median(errors[~has_company]))

    step = MOST_CROWDING / GRID
    middle = min((number * step for number in range(GRID + 1)), key=error)
    low, high = max(0.0, middle - step), middle + step
    for _ in range(SEARCHES):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        if error(left) <= error(right):
            high = right
        else:
            low = left
    crowding = (low + high) / 2
    return _trimmed_fit(features, seconds / (1.0 + crowding * company)), crowding


def _trimmed_fit(features: Numbers, seconds: Numbers) -> Numbers:
    found = _nonnegative(features, seconds)
    for _ in range(TRIMS):
        errors = _errors(features, seconds, found)
        kept = errors <= max(LEAST_ERROR, OUTLIER * float(np.median(errors)))
        found = _nonnegative(features[kept], seconds[kept])
    return found


def _errors(features: Numbers, seconds: Numbers, found: Numbers) -> Numbers:
    return np.abs(features @ found / seconds - 1.0)


def _nonnegative(features: Numbers, values: Numbers) -> Numbers:
    """Least squares of relative errors; what comes out negative becomes 0 and the rest is fitted again."""
    weights = 1.0 / np.maximum(values, max(LEAST_WEIGHED * float(values.max()), 1e-12))
    scale = np.maximum(np.abs(features).max(axis=0), 1e-300)
    free = list(range(features.shape[1]))
    found = np.zeros(features.shape[1])
    while free:
        scaled = features[:, free] / scale[free] * weights[:, None]
        solution, *_ = np.linalg.lstsq(scaled, values * weights, rcond=None)
        if solution.min() >= 0.0:
            found[free] = solution / scale[free]
            return found
        del free[int(solution.argmin())]
    return found


def _median(values: Sequence[float]) -> float:
    return median(values) if values else 0.0
