"""The images that clients of ComfyUI's protocol upload, as files that all gateways share.

An upload is two files in its tenant's folder, named after its path: ``KEY.image``, its bytes, and ``KEY.json``, its
path and digest, written last.  The oldest go where a tenant has too many: a prompt keeps what it uses with its job.
"""

import fcntl
import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lego_serve.compat.comfyui.paths import upload_name
from lego_serve.errors import NotFound, StoreUnavailable

MAX_FILES = 500  # of a tenant
MAX_BYTES = 512 * 2**20  # of a tenant


@dataclass(frozen=True, slots=True)
class Kept:
    """An upload: its path, the digest of its bytes, their number and when they came."""

    path: str
    digest: str
    size: int
    added_ns: int


class Uploads:
    """Reads and writes the uploads of all tenants below one folder; every call waits for the disk."""

    def __init__(self, folder: Path, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
        self._folder, self._max_files, self._max_bytes = folder, max_files, max_bytes

    def names(self, tenant: str) -> list[str]:
        """Return the paths of a tenant's uploads."""
        return sorted(kept.path for kept in self._kept(tenant))

    def read(self, tenant: str, path: str) -> bytes:
        """Return an upload.  Raises NotFound."""
        try:
            return (self._folder / tenant / f"{_key(path)}.image").read_bytes()
        except OSError:
            raise NotFound(f"There is no upload {path[:60]!a}.", param="image") from None

    def add(
        self, tenant: str, name: str, subfolder: str, content: bytes, *, is_overwritten: bool = False
    ) -> tuple[str, str]:
        """Keep an upload, and return the name and folder it has then.  Raises Refused, StoreUnavailable."""
        try:
            with self._locked(tenant) as folder:
                kept = self._kept(tenant)
                digest = hashlib.sha256(content).hexdigest()
                known = {each.path: each.digest for each in kept}
                name, subfolder = upload_name(name, subfolder, digest, known, is_overwritten=is_overwritten)
                path = f"{subfolder}/{name}" if subfolder else name
                others = [each for each in kept if each.path != path]
                self._make_room(folder, others, len(content))
                _write(folder / f"{_key(path)}.image", content)
                _write(folder / f"{_key(path)}.json", json.dumps({"path": path, "digest": digest}).encode())
        except OSError as error:
            raise StoreUnavailable("The folder of uploads cannot be written; try again later.") from error
        return name, subfolder

    def _make_room(self, folder: Path, kept: list[Kept], size: int) -> None:
        held = sum(each.size for each in kept) + size
        for number, each in enumerate(sorted(kept, key=lambda each: each.added_ns)):
            if len(kept) - number < self._max_files and held <= self._max_bytes:
                return
            (folder / f"{_key(each.path)}.json").unlink(missing_ok=True)
            (folder / f"{_key(each.path)}.image").unlink(missing_ok=True)
            held -= each.size

    def _kept(self, tenant: str) -> list[Kept]:
        found = []
        for file in (self._folder / tenant).glob("*.json"):
            try:
                note = json.loads(file.read_bytes())
                stat = file.with_suffix(".image").stat()
                found.append(Kept(str(note["path"]), str(note["digest"]), stat.st_size, stat.st_mtime_ns))
            except (OSError, ValueError, KeyError):  # it has just been removed, or never became whole
                continue
        return found

    @contextmanager
    def _locked(self, tenant: str) -> Iterator[Path]:
        folder = self._folder / tenant
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder


def _key(path: str) -> str:
    return hashlib.sha256(path.encode(errors="replace")).hexdigest()


def _write(file: Path, content: bytes) -> None:
    unfinished = file.with_suffix(f".{secrets.token_hex(8)}.tmp")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
