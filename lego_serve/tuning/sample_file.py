"""A file of samples that grows batch by batch, so that a long measurement goes on where it was cut short."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lego_serve.errors import LegoError
from lego_serve.tuning.quality import Sample


class SampleFile:
    """Samples as lines of JSON; the images of a batch are written together or not at all.

    Raises LegoError where the file cannot be read or written, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.samples: list[Sample] = []
        try:
            lines = path.read_text().splitlines() if path.exists() else []
            self.samples = [Sample(**each) for line in lines for each in json.loads(line)]
        except (OSError, ValueError, TypeError) as error:
            raise LegoError(f"{path}: is no file of samples: {type(error).__name__}") from None

    @property
    def images(self) -> frozenset[int]:
        """The numbers of the images that were measured."""
        return frozenset(sample.image for sample in self.samples)

    def add(self, batch: Sequence[Sample]) -> None:
        """Write the samples of a batch."""
        try:
            with self._path.open("a") as file:
                file.write(json.dumps([asdict(sample) for sample in batch]) + "\n")
        except OSError as error:
            raise LegoError(f"{self._path}: cannot be written: {error.strerror}") from None
        self.samples += batch
