"""What is remembered of a suspect before it may take the replica down, and after it has not."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from lego_serve.core.jobs.messages import LaneProgress
from lego_serve.core.jobs.progress import PREPARING
from lego_serve.engine.lane_listener import LaneListener
from lego_serve.engine.thread import EngineThread
from lego_serve.errors import LegoError, NodeError
from lego_serve.models.loading import load_backbone
from lego_serve.models.registry import ModelSpec
from tests.support.engine.engines import Faulty, Noting, engine_of, request

PATIENCE_S = 60.0


class Remembering:
    """A witness that keeps all that it is told, between what else happens."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int] | str] = []

    def note(self, call: str, progress: LaneProgress) -> bool:
        """Of a call: the step that is about to run."""
        self.told.append((call, progress.step))
        return True

    def clear(self, call: str) -> None:
        """Of a call that its lane came through."""
        self.told.append(f"{call} came through")


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Any:
    """lego-tiny's architecture with random weights."""
    return load_backbone(ModelSpec("tiny", str(tiny_folder), dtype="float32", max_sequence_length=0))


async def told_of(thread: EngineThread, witness: Remembering, *, suspect_steps: int = 2, **asked: Any) -> None:
    """Run a lane that is a suspect for its first steps."""
    heard: list[LaneProgress] = []
    listener = LaneListener(heard.append, call="mine", witness=witness)
    try:
        lane = request("a", suspect_steps=suspect_steps, **asked)
        await asyncio.wait_for(thread.submit(lane, listener), PATIENCE_S)
    finally:
        thread.close()


async def test_a_suspect_is_remembered_before_each_step_that_it_may_end_at_and_forgotten_after_it(model: Any) -> None:
    """Being made ready is such a step; later steps are nobody's concern."""
    witness = Remembering()
    await told_of(EngineThread(Noting(engine_of(model), lambda: witness.told.append("is ready"))), witness)  # type: ignore[arg-type]
    steps: list[object] = ["mine came through"]
    assert witness.told[:3] == [("mine", PREPARING), "is ready", *steps]
    assert witness.told[3:] == [("mine", 0), *steps, ("mine", 1), *steps]


async def test_a_lane_that_is_no_suspect_is_not_remembered(model: Any) -> None:
    """It costs no question to anybody."""
    witness = Remembering()
    await told_of(EngineThread(engine_of(model)), witness, suspect_steps=0)
    assert not witness.told


async def test_a_suspect_that_fails_by_itself_is_forgotten(model: Any) -> None:
    """In a step, or while it is made ready: the replica lives."""
    witness = Remembering()
    with pytest.raises(NodeError):
        await told_of(EngineThread(engine_of((Faulty(model[0], poison=5.0), model[1]))), witness, guidance=5.0)
    assert witness.told[-1] == "mine came through"
    witness.told.clear()
    with pytest.raises(LegoError):
        await told_of(EngineThread(engine_of(model)), witness, steps=0)
    assert witness.told == [("mine", PREPARING), "mine came through"]
