"""What is published of each trace, as far as a synthetic one can follow it: arrivals, popularity, sizes.

The numbers were computed from the published files, or are the papers' own; each profile says what is assumed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loadgen.popularity import CLUSTERING, CURVES, Locality, Points
from loadgen.traces.gaps import Gaps
from loadgen.traces.image_traces import GENTD26_LORA_CURVE, GENTD26_LORAS

Shares = Mapping[str, float]
Quantiles = Sequence[tuple[float, float]]  # (share, value that so many do not exceed)


@dataclass(frozen=True, slots=True)
class Popularity:
    """``count`` things, named by a prefix and their rank, whose popularity follows a curve."""

    prefix: str
    count: int
    curve: Points
    locality: Locality = field(default_factory=Locality)


@dataclass(frozen=True, slots=True)
class Scene:
    """One service of a trace: how many add-ons a request has (none, one, two, ...), and which."""

    share: float
    controlnets: Popularity | None = None
    controlnet_counts: Sequence[float] = (1.0,)
    adapters: Popularity | None = None
    adapter_counts: Sequence[float] = (1.0,)


@dataclass(frozen=True, slots=True)
class TraceProfile:
    """A published trace in numbers; ``faithful`` says which statistics are followed, ``assumed`` which are not known.

    ``labels`` are workflows with their shares; without them workflows follow ``workflows``.  With ``tenants`` a
    request's tenant is drawn by its popularity and repeats its last workflow with ``tenant_repeats``.
    """

    name: str
    requests: int
    rate_rps: float
    gaps: Gaps
    faithful: str
    assumed: str
    labels: Shares = field(default_factory=dict)
    workflows: Popularity | None = None
    tenants: Popularity | None = None
    tenant_repeats: float = 0.0
    scenes: Mapping[str, Scene] = field(default_factory=dict)
    kinds: Shares = field(default_factory=dict)
    images: Shares = field(default_factory=dict)
    steps: Shares = field(default_factory=dict)
    solo_s: Mapping[str, Quantiles] = field(default_factory=dict)  # seconds alone, by number of images
    input_tokens: Quantiles = ()
    output_tokens: Quantiles = ()


def _diflow_gaps(tick_means: float) -> Quantiles:
    """Return DiFlow's gaps, each a multiple of one tick, in means."""
    ticks = ((0, 0.4172), (1, 0.7682), (2, 0.9232), (3, 0.9888), (5, 1.0))
    points: list[tuple[float, float]] = []
    before = 0.0
    for tick, share in ticks:
        points += [(before, tick * tick_means), (share, tick * tick_means)]
        before = share
    return points


DIFLOW = TraceProfile(
    name="diflow",
    requests=356,
    rate_rps=2.97,
    gaps=Gaps(_diflow_gaps(1.0941)),
    faithful="rate at scale 4, gaps (multiples of one tick), workflows, solo times",
    assumed="gaps are independent: the original repeats one window of 120 s",
    labels={"A": 0.45, "B": 0.315, "C": 0.235},
)

KATZ = TraceProfile(
    name="katz",
    requests=10_000,
    rate_rps=0.318,
    gaps=Gaps(cv=1.1, tick_s=1.0),
    faithful="rate, popularity, number and clustering of ControlNets and LoRAs of both services",
    assumed="both services are asked equally often, gaps spread as in DiFlow's window of it, five base models by rank",
    workflows=Popularity("base-", 5, ((1, 43.8), (2, 65.7), (3, 80.3), (4, 91.2), (5, 100.0))),
    scenes={
        "A": Scene(
            0.5,
            Popularity("A-cn-", 75, CURVES["controlnet_A"], CLUSTERING["controlnet_A"]),
            (0.02, 0.28, 0.70),
            Popularity("A-lora-", 7250, CURVES["lora_A"], CLUSTERING["lora_A"]),
            (0.05, 0.0, 0.95),
        ),
        "B": Scene(
            0.5,
            Popularity("B-cn-", 75, CURVES["controlnet_B"], CLUSTERING["controlnet_B"]),
            (0.02, 0.28, 0.70),
            Popularity("B-lora-", 7250, CURVES["lora_B"], CLUSTERING["lora_B"]),
            (0.05, 0.95),
        ),
    },
)

GENTD26 = TraceProfile(
    name="gentd26",
    requests=26_823,
    rate_rps=0.013483,
    gaps=Gaps(
        (
            (0, 0), (0.02, 0), (0.05, 0.01348), (0.1, 0.02697), (0.2, 0.05393), (0.3, 0.09438), (0.4, 0.1348),
            (0.5, 0.2022), (0.6, 0.2831), (0.7, 0.391), (0.8, 0.5528), (0.85, 0.6876), (0.9, 0.9303), (0.93, 1.2),
            (0.95, 1.591), (0.97, 2.494), (0.98, 4.112), (0.985, 5.703), (0.99, 8.974), (0.993, 13.75), (0.995, 20.69),
            (0.997, 36.35), (0.998, 59.24), (0.999, 128.0), (0.9995, 339.9), (0.9998, 430.6), (0.9999, 512.6),
            (1, 646.6),
        ),
        weight=0.36,
        memory=0.9943,
        tick_s=1.0,
    ),
    faithful="rate, gaps and their clustering, base models, users, LoRAs, kinds, steps, images, seconds alone",
    assumed="no hours of the day; which LoRA follows the popularity of the sister file",
    workflows=Popularity(
        "M", 86,
        ((1, 30.7), (2, 45.7), (3, 55.1), (4, 63.0), (5, 70.5), (6, 74.8), (8, 81.4), (10, 86.7), (15, 91.9),
         (20, 94.0), (30, 96.5), (60, 99.7), (86, 100.0)),
    ),
    tenants=Popularity(
        "G", 4247,
        ((1, 4.5), (3, 7.7), (10, 14.7), (30, 24.4), (100, 37.0), (300, 51.6), (1000, 73.2), (2000, 87.5), (3000, 95.4),
         (4247, 100.0)),
        Locality(0.65, 5.0),
    ),
    tenant_repeats=0.67,
    scenes={
        "": Scene(
            1.0,
            adapters=Popularity("L", GENTD26_LORAS, GENTD26_LORA_CURVE),
            adapter_counts=(0.8325, 0.1564, 0.0095, 0.0013, 0.0001, 0.0, 0.0002),
        )
    },
    kinds={"generation": 0.9111, "edit": 0.082, "inpaint": 0.0069},
    images={"1": 0.578, "4": 0.1915, "8": 0.148, "2": 0.082, "3": 0.0005},
    steps={"30": 0.907, "40": 0.0508, "28": 0.0072, "50": 0.0054, "35": 0.0049, "25": 0.004, "38": 0.0037,
           "20": 0.0025, "100": 0.0018, "33": 0.0013, "60": 0.0013, "44": 0.0101},
    solo_s={
        "1": ((0, 3), (0.05, 10), (0.25, 15), (0.5, 20), (0.75, 27), (0.9, 38), (0.95, 48), (0.99, 75), (1, 155)),
        "2": ((0, 7), (0.05, 13), (0.25, 18), (0.5, 24), (0.75, 36), (0.9, 59), (0.95, 75), (0.99, 103), (1, 182)),
        "4": ((0, 4), (0.05, 14), (0.25, 21), (0.5, 29), (0.75, 46), (0.9, 73), (0.95, 95), (0.99, 125), (1, 567)),
        "8": ((0, 6), (0.05, 15), (0.25, 22), (0.5, 30), (0.75, 48), (0.9, 71), (0.95, 85), (0.99, 115), (1, 430)),
    },
)  # fmt: skip

AZURE_CONV = TraceProfile(
    name="azure-conv",
    requests=19_366,
    rate_rps=5.53,
    gaps=Gaps(
        (
            (0, 0), (0.01, 0.00302), (0.05, 0.03495), (0.1, 0.08928), (0.2, 0.202), (0.3, 0.3358), (0.4, 0.4825),
            (0.5, 0.6549), (0.6, 0.8775), (0.7, 1.181), (0.8, 1.597), (0.9, 2.326), (0.95, 3.126), (0.97, 3.723),
            (0.99, 4.92), (0.995, 5.719), (0.999, 7.804), (0.9995, 9.961), (0.9999, 17.17), (1, 23.86),
        ),
        weight=0.05,
        memory=0.998,
    ),
    faithful="rate, gaps and their clustering, lengths",
    assumed="one workflow",
    labels={"azure": 1.0},
    input_tokens=((0, 2), (0.05, 181), (0.25, 396), (0.5, 1020), (0.75, 1189), (0.95, 4083), (0.99, 4142), (1, 14050)),
    output_tokens=((0, 7), (0.05, 41), (0.25, 85), (0.5, 129), (0.75, 395), (0.95, 451), (0.99, 601), (1, 1000)),
)  # fmt: skip

AZURE_CODE = TraceProfile(
    name="azure-code",
    requests=8819,
    rate_rps=2.566,
    gaps=Gaps(
        (
            (0, 0), (0.05, 0.00023), (0.1, 0.00054), (0.15, 0.00227), (0.2, 0.00304), (0.25, 0.00533), (0.3, 0.00845),
            (0.4, 0.03876), (0.5, 0.1637), (0.6, 0.2438), (0.7, 0.257), (0.75, 0.2669), (0.8, 0.4108), (0.85, 0.5103),
            (0.9, 0.7003), (0.93, 0.8021), (0.95, 1.029), (0.97, 1.533), (0.98, 2.05), (0.985, 2.819), (0.99, 5.659),
            (0.993, 9.495), (0.995, 25.61), (0.997, 72.08), (0.998, 106.3), (0.999, 203.3), (0.9995, 340.0),
            (0.9998, 435.3), (1, 557.3),
        ),
        weight=0.15,
        memory=0.98,
    ),
    faithful="rate, gaps and their clustering, lengths",
    assumed="one workflow",
    labels={"azure": 1.0},
    input_tokens=((0, 3), (0.05, 75), (0.25, 578), (0.5, 1469), (0.75, 2745), (0.95, 7303), (0.99, 7436), (1, 7437)),
    output_tokens=((0, 6), (0.05, 6), (0.25, 9), (0.5, 13), (0.75, 24), (0.95, 90), (0.99, 251), (1, 1899)),
)  # fmt: skip

MOONCAKE = TraceProfile(
    name="mooncake",
    requests=4000,
    rate_rps=3.07,
    gaps=Gaps(cv=1.03, tick_s=3.0),
    faithful="rate, stamps every three seconds and how many requests share one, lengths",
    assumed="one workflow; no slow change of the rate",
    labels={"mooncake": 1.0},
    input_tokens=(
        (0, 891), (0.05, 901), (0.25, 2653), (0.5, 7874), (0.75, 16895), (0.95, 43040), (0.99, 94411), (1, 123192),
    ),
    output_tokens=((0, 1), (0.05, 9), (0.25, 152), (0.5, 358), (0.75, 476), (0.95, 698), (0.99, 1157), (1, 2000)),
)  # fmt: skip

BURSTGPT = TraceProfile(
    name="burstgpt",
    requests=10_000,
    rate_rps=0.271,
    gaps=Gaps(cv=2.0, tick_s=1.0),
    faithful="rate (1,429,700 requests in 61 days), gamma distributed gaps in whole seconds, two models",
    assumed="the gaps' CV of 2, four in five requests for the smaller model; no lengths",
    labels={"ChatGPT": 0.8, "GPT-4": 0.2},
)

PROFILES: Mapping[str, TraceProfile] = {
    profile.name: profile for profile in (DIFLOW, GENTD26, KATZ, AZURE_CONV, AZURE_CODE, MOONCAKE, BURSTGPT)
}
