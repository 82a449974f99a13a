"""Whom a backbone's replica asks to compute branches of its lanes: whoever has the same bits, and nobody else."""

from dataclasses import replace

import pytest

from lego_serve.core.nodes.computed import ComputedAs
from lego_serve.core.nodes.requests import HelperAddress, OfferHelp
from lego_serve.engine.sharing.compute_turns import ComputeTurns
from lego_serve.models.loading import load_backbone
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.nodes.branch_helpers import BranchHelpers

HERE = ComputedAs("weights", "torch.float32", "dense", "this machine")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """The model of the package."""
    return load_backbone(ModelSpec("lego-tiny", "builtin:lego-tiny", max_sequence_length=0))[0]


class Replicas:
    """All replicas of a backbone, as Ray would ask them."""

    def __init__(self, answers: dict[str, HelperAddress | None]) -> None:
        self.answers = answers

    async def control(self, command: OfferHelp) -> list[tuple[str, HelperAddress | None]]:
        """Ask each."""
        return list(self.answers.items())


def helper(**other: str) -> HelperAddress:
    """One that differs so from this replica."""
    return HelperAddress("there", 1, f"token {other}", replace(HERE, **other))


async def test_whoever_computes_other_bits_is_not_asked_and_the_log_says_why(
    backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    """Of other weights, dtype, kind of product or machine; it says so once."""
    replicas = Replicas({"same": helper(), "away": None})
    for name in ("revision", "dtype", "linear", "machine"):
        replicas.answers[name] = helper(**{name: "other"})
    mine = BranchHelpers(backbone, replicas, ComputeTurns(), lambda: "127.0.0.1", HERE)
    for _ in range(2):
        mine._asked_s = float("-inf")
        mine.ask()
        assert mine._asking is not None
        await mine._asking
    assert mine.splitter._offers == [replicas.answers["same"]]
    told = [line for line in caplog.messages if "no branches" in line]
    assert len(told) == 4
    assert any("dtype has another dtype" in line for line in told)
    assert mine.address().computes == HERE
    mine.close()
