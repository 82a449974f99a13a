"""What one backbone replica answers about templates."""

from lego_serve.engine.step_engine import StepEngine
from lego_serve.engine.thread import EngineThread


def answer_about(engine: StepEngine, thread: EngineThread | None, verb: str, name: str) -> int:
    """Bytes: of one ``entry`` of a picture of a size, or of all that is or was kept of a picture.

    Without a thread nothing computes here yet.
    """
    if verb == "entry":
        width, height = map(int, name.split("x"))
        return engine.entry_bytes(width, height)
    picture, _, pin = name.partition(" ")
    kept = engine.templates.bytes_of(picture)
    if verb == "forget":
        if thread is None:
            engine.templates.forget(picture, pin)
        else:
            thread.forget(picture, pin)
    return kept
