"""The policies by name, as the command line and the tables make them; baselines know the load beforehand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from lego_serve.core.cluster.admission import AdmissionRule
from lego_serve.core.cluster.cell import CellRule
from lego_serve.core.cluster.dispatch import DispatchRule
from lego_serve.core.cluster.parallelism import ParallelRule
from lego_serve.core.cluster.residency import ResidencyRule
from lego_serve.core.suggest import did_you_mean
from lego_serve.errors import ConfigError
from lego_serve.sim.cluster import Setting
from lego_serve.sim.policies.clockwork import Clockwork
from lego_serve.sim.policies.diflow import Diflow, DiflowOptions
from lego_serve.sim.policies.lego import Lego, LegoOptions
from lego_serve.sim.policies.shepherd import groups, shepherd
from lego_serve.sim.policies.static import Static, packed
from lego_serve.sim.run import Policy

Maker = Callable[[Setting, Mapping[str, float]], Policy]
SHARED = AdmissionRule(sheds_started=True, floors={"*": 0.75})  # where classes differ in length

# The artifact's configs/model_batch.json, (for latency, for throughput), by the names of the cluster files here.
BATCHES = {
    **dict.fromkeys(("t5", "t5-f", "medium", "large"), (1, 2)),
    **dict.fromkeys(("clip-l", "clip-g", "clip-x1", "clip-x2", "clip-s", "small"), (4, 8)),
    **dict.fromkeys(("clip", "clip-f"), (8, 16)),
    "xl": (1, 4),
}


@dataclass(frozen=True, slots=True)
class Division:
    """How our policy is divided: cells of GPUs, and gateways that hear of them now and then."""

    cells: int = 1
    gateways: int = 1
    report_age_s: float = 0.0


def preloaded(setting: Setting) -> list[str]:
    """All models, where they fit on every GPU together; else none."""
    models = sorted(frozenset().union(*(setting.work(name).models for name in setting.workflows)))
    return models if setting.costs.size_bytes(models) <= setting.memory_bytes else []


def lego_options(
    *,
    admission: AdmissionRule = SHARED,
    parallel: ParallelRule | None = None,
    residency: ResidencyRule | None = None,
    steals: bool = True,
) -> LegoOptions:
    """Our policy with some of its rules changed."""
    dispatch = DispatchRule(parallel or ParallelRule(), steals=steals)
    return LegoOptions(CellRule(admission, dispatch, residency or ResidencyRule()))


def _lego(options: LegoOptions) -> Maker:
    return lambda setting, shares: Lego(options, preloaded(setting))


def _diflow(options: DiflowOptions) -> Maker:
    return lambda setting, shares: Diflow(replace(options, batches=BATCHES), preloaded(setting))


ABLATIONS: dict[str, LegoOptions] = {
    "lego-no-admission": lego_options(admission=AdmissionRule(admits_all=True)),
    "lego-newest-only": lego_options(admission=AdmissionRule(sheds_waiting=False)),
    "lego-no-pair": lego_options(parallel=ParallelRule(pairs=False, batches=False)),
    "lego-no-split": lego_options(parallel=ParallelRule(splits=False)),
    "lego-no-batch": lego_options(parallel=ParallelRule(batches=False)),
    "lego-every-batch": lego_options(parallel=ParallelRule(min_saving=0.01)),
    "lego-no-prefetch": lego_options(residency=ResidencyRule(prefetches=False)),
}
LEGO = {"lego": lego_options(), **ABLATIONS}
POLICIES: dict[str, Maker] = {
    "static": lambda setting, shares: Static(groups(setting, shares)),
    "static+drop": shepherd,
    "packed": lambda setting, shares: Static(packed(setting, shares)),
    "packed+drop": lambda setting, shares: Static(packed(setting, shares), drops_hopeless=True),
    "clockwork-as-coded": lambda setting, shares: Clockwork(),
    "clockwork": lambda setting, shares: Clockwork(packed(setting, shares, shares_models=False)),
    "diflow": _diflow(DiflowOptions()),
    "diflow-no-admission": _diflow(DiflowOptions(admits_all=True)),
    **{name: _lego(options) for name, options in LEGO.items()},
}


def policy_named(
    name: str, setting: Setting, shares: Mapping[str, float] | None = None, division: Division | None = None
) -> Policy:
    """Make a policy by its name; ours may be divided.  Raises ConfigError for an unknown one."""
    if name not in POLICIES:
        raise ConfigError(did_you_mean("policy", name, POLICIES))
    if division is not None and name in LEGO:
        cells, gateways, age_s = division.cells, division.gateways, division.report_age_s
        return Lego(replace(LEGO[name], cells=cells, gateways=gateways, stale_s=age_s), preloaded(setting))
    return POLICIES[name](setting, setting.shares if shares is None else shares)
