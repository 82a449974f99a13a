"""What stands for faults in servers under test does what it says, in this process, without a server."""

from pathlib import Path
from types import ModuleType

import pytest

from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.ordering import fifo
from lego_serve.engine import step_engine
from lego_serve.engine.step.batch_runner import BatchRunner
from lego_serve.engine.step_engine import StepEngine
from lego_serve.models.loading import load_backbone
from lego_serve.models.registry import ModelSpec
from tests.support.e2e.faults.sitecustomize import STEPS_LOG, note_steps
from tests.support.e2e.servers import SEEDS, begun
from tests.support.engine.engines import Clock, request, run


def test_every_step_begun_is_written_down(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once where it was run once, and twice where a lane went back to a checkpoint."""
    monkeypatch.setenv(STEPS_LOG, str(tmp_path / "steps.log"))
    module = ModuleType("batch_runner")
    module.BatchRunner = type("Noted", (BatchRunner,), {})  # type: ignore[attr-defined]
    note_steps(module)
    monkeypatch.setattr(step_engine, "BatchRunner", module.BatchRunner)
    model = load_backbone(ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0))
    first, second = SEEDS[0], SEEDS[1]
    engine = StepEngine(*model, StepBatcher(fifo, StepLimits()), Clock())
    engine.add(request("a", first))
    engine.step()
    checkpoint = engine.checkpoint("a")
    engine.step()
    engine.step()
    engine.cancel("a")
    since = (tmp_path / "steps.log").stat().st_size
    engine.add(request("b", first, checkpoint=checkpoint))
    engine.add(request("c", second))
    run(engine)
    steps = begun(tmp_path / "steps.log", 0)
    assert steps[first] == {0: 1, 1: 2, 2: 2, 3: 1}
    assert steps[second] == {0: 1, 1: 1, 2: 1, 3: 1}
    assert begun(tmp_path / "steps.log", since)[first] == {1: 1, 2: 1, 3: 1}
