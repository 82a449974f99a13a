"""A file of samples that grows batch by batch, so that a long measurement goes on where it was cut short."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lego_serve.errors import LegoError
from lego_serve.tuning.quality import Sample

OF = "samples_of"


class SampleFile:
    """Samples as lines of JSON, after a line that names what they are of; a batch is written as a whole or not at all.

    ``of`` names all that the samples depend on: weights, images, steps and the rows that are drawn.  Raises LegoError
    where the file cannot be read or written, holds something else, or samples of something else, which would be taken
    for these.
    """

    def __init__(self, path: Path, of: str) -> None:
        self._path, self._of = path, of
        self.samples: list[Sample] = []
        try:
            lines = path.read_text().splitlines() if path.exists() else []
            named = json.loads(lines[0])[OF] if lines else of
            self.samples = [Sample(**each) for line in lines[1:] for each in json.loads(line)]
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise LegoError(f"{path}: is no file of samples: {type(error).__name__}") from None
        if named != of:
            message = "holds samples of other weights, grids, prompts or settings; name another file, or remove this"
            raise LegoError(f"{path}: {message}")
        self._is_begun = bool(lines)

    @property
    def images(self) -> frozenset[int]:
        """The numbers of the images that were measured."""
        return frozenset(sample.image for sample in self.samples)

    def add(self, batch: Sequence[Sample]) -> None:
        """Write the samples of a batch."""
        head = "" if self._is_begun else json.dumps({OF: self._of}) + "\n"
        try:
            with self._path.open("a") as file:
                file.write(head + json.dumps([asdict(sample) for sample in batch]) + "\n")
        except OSError as error:
            raise LegoError(f"{self._path}: cannot be written: {error.strerror}") from None
        self._is_begun = True
        self.samples += batch
