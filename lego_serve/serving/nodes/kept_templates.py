"""What one backbone replica answers about templates."""

from lego_serve.engine.step_engine import StepEngine
from lego_serve.engine.thread import EngineThread


def template_info(engine: StepEngine, thread: EngineThread | None, verb: str, name: str) -> int:
    """What ``TemplateOrder`` says.  Without a thread nothing computes here yet."""
    if verb in ("rows", "entry", "text"):
        width, height = map(int, name.split("x"))
        size = engine.entry_size(width, height)
        return {"rows": size.rows, "entry": size.plain_bytes, "text": size.text_bytes}[verb]
    image, _, pin = name.partition(" ")
    kept = engine.templates.bytes_of(image)
    if verb == "forget":
        if thread is None:
            engine.templates.forget(image, pin)
        else:
            thread.forget(image, pin)
    return kept
