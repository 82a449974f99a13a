"""What one backbone replica answers about templates."""

from lego_serve.engine.step_engine import StepEngine
from lego_serve.engine.thread import EngineThread


def answer_about(engine: StepEngine, thread: EngineThread | None, verb: str, name: str) -> int:
    """What ``TemplateOrder`` says.  Without a thread nothing computes here yet."""
    if verb in ("rows", "entry", "text"):
        width, height = map(int, name.split("x"))
        size = engine.entry_size(width, height)
        return {"rows": size.rows, "entry": size.plain_bytes, "text": size.text_bytes}[verb]
    picture, _, pin = name.partition(" ")
    kept = engine.templates.bytes_of(picture)
    if verb == "forget":
        if thread is None:
            engine.templates.forget(picture, pin)
        else:
            thread.forget(picture, pin)
    return kept
