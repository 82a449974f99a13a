"""The rows of a benchmark of routers."""

from pathlib import Path

import torch

from benchmarks.engine.compute.row_routers import routed_rows
from lego_serve.models.ragged.pruning.router import BlockRouter
from lego_serve.models.router_files import write_router


def test_a_router_is_measured_beside_an_untrained_one_and_chance(tmp_path: Path) -> None:
    """With the same rows in each block; without a file there is nothing to measure."""
    assert routed_rows(None, "abc", (0.6,), 28) == []
    write_router(BlockRouter.drawn(6, 128, seed=9), "abc", tmp_path / "router")
    rows = routed_rows(tmp_path / "router", "abc", (0.6, 0.8), 28)
    assert [row.name for row in rows[:3]] == [
        "block rows 60%, trained",
        "block rows 60%, untrained",
        "block rows 60%, random",
    ]
    assert len({row.block_rows for row in rows}) == 2
    routers = [row.router for row in rows[:3] if row.router is not None]
    assert len(routers) == 3
    trained, untrained, drawn = routers
    x, embedded, branch = torch.randn(9, 128), torch.randn(1, 128), torch.zeros(9, dtype=torch.int64)
    assert not torch.equal(trained.scores(1, x, embedded, branch), untrained.scores(1, x, embedded, branch))
    assert not torch.equal(drawn.scores(1, x, embedded, branch), drawn.scores(1, x, embedded, branch))
