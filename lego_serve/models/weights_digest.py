"""Tells whether two folders hold the same weights, without reading all of them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from lego_serve.core.caching.file_version import FileVersion, is_settled
from lego_serve.models.derived.origin import FILE as DIFFERENCE
from lego_serve.models.derived.origin import origin_of

DENOISER = ("transformer", "scheduler")  # the components whose files decide what a lane computes
WHOLE_BYTES = 1 << 20  # a file up to this size is read whole
SAMPLES, SAMPLE_BYTES = 64, 4096  # of a larger one: training changes all of its blocks, and a copy none


def weights_digest(folder: Path, components: Sequence[str]) -> str:
    """Return a SHA-256 over the configurations and weights of a model's components, 64 hexadecimal digits.

    Of large files it reads the size and samples spread evenly, so it costs milliseconds; it depends on content and
    names alone, so replicas on different machines agree.
    """
    digest = hashlib.sha256()
    for component in components:
        for file in sorted((folder / component).glob("*")):
            if file.is_file() and file.suffix in (".json", ".safetensors"):
                digest.update(f"{component}/{file.name}\n{file.stat().st_size}\n".encode())
                _update(digest, file)
    return digest.hexdigest()


def denoiser_digest(folder: Path) -> str:
    """Return the digest of what decides what a lane computes, of a model's folder or of a derived one.

    Raises ValueError for a derived one that is damaged.
    """
    if (origin := origin_of(folder)) is None:
        return weights_digest(folder, DENOISER)
    file = folder / DIFFERENCE
    digest = hashlib.sha256(f"{DIFFERENCE} {file.stat().st_size} of {origin.weights}\n".encode())
    _update(digest, file)
    return digest.hexdigest()


def file_versions(folders: Sequence[Path], now_s: float) -> dict[Path, FileVersion] | None:
    """Return the versions of all files in folders and in theirs, by what their file system says: no file is read.

    None while a write at ``now_s``, in seconds since 1970, might not show in them.
    """
    versions = {}
    for file in (each for folder in folders for pattern in ("*", "*/*") for each in folder.glob(pattern)):
        if file.is_file():
            about = file.stat()
            times = (about.st_mtime_ns, about.st_ctime_ns)
            versions[file] = FileVersion(about.st_dev, about.st_ino, about.st_size, *times)
    return versions if all(is_settled(version, now_s, 0.0) for version in versions.values()) else None


def _update(digest: "hashlib._Hash", path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            digest.update(file.read())
            return
        for index in range(SAMPLES):
            file.seek((size - SAMPLE_BYTES) * index // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
