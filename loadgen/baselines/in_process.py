"""A diffusers pipeline in a child process, without server or HTTP: it makes one image after the other."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from loadgen.children import STOP_S, ChildError, last_lines
from loadgen.client import Reply, Sample
from loadgen.traffic import ImageRequest

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS")


class InProcessPipeline:
    """A pipeline process that runs while the ``with`` block does and answers bursts with any number of threads."""

    def __init__(self, weights: Path, max_sequence_length: int, log: Path) -> None:
        self._command = [sys.executable, "-m", "loadgen.baselines.sd3_pipeline", "--weights", str(weights)]
        self._command += ["--max-sequence-length", str(max_sequence_length)]
        self._log = log
        self.dtype = ""

    def __enter__(self) -> "InProcessPipeline":
        # Each burst chooses its threads; variables of the caller's shell must not cap or slow them.
        env = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
        with self._log.open("ab") as sink:
            self._process = subprocess.Popen(
                self._command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, text=True
            )
        try:
            self.dtype = str(self._read_answer()["dtype"])
        except BaseException:
            self._process.kill()
            self._process.communicate()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()

    def burst(self, requests: Sequence[ImageRequest], threads: int) -> list[Sample]:
        """Make the images one after the other, all due at the start.  Raises ChildError if the process ends."""
        job = {"threads": threads, "requests": [asdict(request) for request in requests]}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the missing answer below raises with the log's last lines
        answer = self._read_answer()
        done, images = answer["done_s"], answer["images"]
        begun = [0.0, *done[:-1]]
        return [
            Sample(0.0, sent, end, Reply(base64.b64decode(image)))
            for sent, end, image in zip(begun, done, images, strict=True)
        ]

    def _read_answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ChildError(f"the baseline ended with {self._process.wait(STOP_S)}:\n{last_lines(self._log)}")
        answer: dict[str, Any] = json.loads(line)
        return answer
