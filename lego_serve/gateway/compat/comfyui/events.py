"""What a listener is told of one prompt, as its job goes on."""

from lego_serve.compat.comfyui.messages import Begun, Ended, Message, Previewed, Saved, Stepped, messages
from lego_serve.core.durable_jobs.preview import JobPreview
from lego_serve.core.durable_jobs.record import JobRecord, JobStatus
from lego_serve.gateway.compat.comfyui.prompts import STATUS_WORDS, Prompt


class Story:
    """Tells a prompt's life in ComfyUI's order, each step once."""

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self._has_begun = False
        self._step = 0
        self.is_over = False

    def of_record(self, record: JobRecord, remaining: int) -> list[Message]:
        """Return what a state is told by; ``remaining`` prompts are left after an end."""
        if record.status is JobStatus.QUEUED or self.is_over:
            return []
        told = self._begin(record)
        if not record.status.has_ended:
            return told + self._stepped(record.progress.step, record.progress.steps)
        self.is_over = True
        if record.status is JobStatus.COMPLETED:
            told += self._stepped(record.progress.steps, record.progress.steps)
            for node, files in self._prompt.files(record).items():
                told += self._messages(Saved(node, files))
        at_ms = int((record.completed_at or record.created_at) * 1000)
        message = "" if record.error is None else record.error.message
        return told + self._messages(Ended(STATUS_WORDS.get(record.status, "error"), at_ms, remaining, message))

    def of_preview(self, preview: JobPreview, *, is_shown: bool) -> list[Message]:
        """Return what a preview is told by: its step, and the image where the listener wants it."""
        if not self._has_begun:
            return []
        told = self._stepped(preview.step, preview.steps)
        return told + (self._messages(Previewed(preview.jpeg)) if is_shown else [])

    def _begin(self, record: JobRecord) -> list[Message]:
        if self._has_begun:
            return []
        self._has_begun = True
        return self._messages(Begun(int((record.started_at or record.created_at) * 1000)))

    def _stepped(self, step: int, steps: int) -> list[Message]:
        if step <= self._step or not steps:
            return []
        self._step = step
        return self._messages(Stepped(step, steps))

    def _messages(self, event: Begun | Stepped | Previewed | Saved | Ended) -> list[Message]:
        graph = self._prompt.graph
        return messages(event, self._prompt.id, graph.sampling_node, graph.sampler or "KSampler")
