"""The images that clients of ComfyUI's protocol upload, kept where the images of jobs are, for all gateways.

An upload is two files in its tenant's folder: ``KEY.json``, a note of its path and digest under the hash of its path,
and its bytes under the same hash and its digest, written first.  So gateways need no lock, and whoever reads a note
finds what it names.  The oldest go where a tenant has too many: a prompt keeps what it uses with its job.
"""

import hashlib
import json
from dataclasses import dataclass

from lego_serve.compat.comfyui.paths import upload_name
from lego_serve.errors import NotFound, StoreUnavailable
from lego_serve.jobstore.blobs.port import Blob, Blobs

FOLDER = "uploads"
NOTE, IMAGE = ".json", ".image"
MAX_FILES = 500  # of a tenant
MAX_BYTES = 512 * 2**20  # of a tenant
TRIES = 8  # where others upload under the same name meanwhile


@dataclass(frozen=True, slots=True)
class Kept:
    """An upload: its path, the digest of its bytes, their number and when they came."""

    path: str
    digest: str
    size: int
    added_at: float

    @property
    def note(self) -> str:
        """The name of its note."""
        return _key(self.path) + NOTE

    @property
    def image(self) -> str:
        """The name of its bytes."""
        return f"{_key(self.path)}.{self.digest}{IMAGE}"


class Uploads:
    """Reads and writes the uploads of all tenants; every call waits for a disk, or for an object store."""

    def __init__(self, blobs: Blobs, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
        self._blobs, self._max_files, self._max_bytes = blobs, max_files, max_bytes
        self._notes: dict[tuple[str, str, float], tuple[str, str]] = {}  # read once, by folder, name and time

    def names(self, tenant: str) -> list[str]:
        """Return the paths of a tenant's uploads.  Raises StoreUnavailable."""
        return sorted(kept.path for kept in self._kept(_folder(tenant)))

    def read(self, tenant: str, path: str) -> bytes:
        """Return an upload.  Raises NotFound, StoreUnavailable."""
        folder = _folder(tenant)
        try:
            _, digest = _noted(self._blobs.read(folder, _key(path) + NOTE))
            return self._blobs.read(folder, Kept(path, digest, 0, 0.0).image)
        except (FileNotFoundError, ValueError):
            raise NotFound(f"There is no upload {path[:60]!a}.", param="image") from None

    def add(
        self, tenant: str, name: str, subfolder: str, content: bytes, *, is_overwritten: bool = False
    ) -> tuple[str, str]:
        """Keep an upload, and return the name and folder it has then.  Raises Refused, StoreUnavailable."""
        folder, digest = _folder(tenant), hashlib.sha256(content).hexdigest()
        for _ in range(TRIES):
            kept = self._kept(folder)
            known = {each.path: each.digest for each in kept}
            named, place = upload_name(name, subfolder, digest, known, is_overwritten=is_overwritten)
            new = Kept(f"{place}/{named}" if place else named, digest, len(content), 0.0)
            if self._write(folder, new, content, replaces=is_overwritten or new.path in known):
                self._make_room(folder, new, kept)
                return named, place
        raise StoreUnavailable(f"Others upload under the name {name[:60]!a} at the same time; try again.")

    def _write(self, folder: str, new: Kept, content: bytes, *, replaces: bool) -> bool:
        """Write an upload; False where another one has got its name meanwhile."""
        self._blobs.write(folder, new.image, content, is_durable=False)
        note = json.dumps({"path": new.path, "digest": new.digest}).encode()
        if not replaces:
            return self._blobs.create(folder, new.note, note)
        self._blobs.write(folder, new.note, note, is_durable=False)
        return True

    def _make_room(self, folder: str, new: Kept, before: list[Kept]) -> None:
        """Remove what a new upload has replaced, and the oldest others where there are too many."""
        gone = [each for each in before if each.path == new.path and each.digest != new.digest]
        self._blobs.delete(folder, [each.image for each in gone])
        others = sorted((each for each in before if each.path != new.path), key=lambda each: each.added_at)
        held = sum(each.size for each in others) + new.size
        for number, each in enumerate(others):
            if len(others) - number < self._max_files and held <= self._max_bytes:
                return
            self._blobs.delete(folder, [each.note, each.image])
            held -= each.size

    def _kept(self, folder: str) -> list[Kept]:
        files = {blob.name: blob for blob in self._blobs.list(folder)}
        notes = {(folder, blob.name, blob.written_at): blob for blob in files.values() if blob.name.endswith(NOTE)}
        self._notes = {key: note for key, note in self._notes.items() if key[0] != folder or key in notes}
        found = [self._found(folder, blob, files) for blob in notes.values()]
        return [kept for kept in found if kept is not None]

    def _found(self, folder: str, blob: Blob, files: dict[str, Blob]) -> Kept | None:
        """Return an upload by its note; None where it has just been removed, or never became whole."""
        key = (folder, blob.name, blob.written_at)
        try:
            path, digest = self._notes.get(key) or _noted(self._blobs.read(folder, blob.name))
        except (FileNotFoundError, ValueError):
            return None
        self._notes[key] = path, digest
        image = files.get(Kept(path, digest, 0, 0.0).image)
        return None if image is None else Kept(path, digest, image.size, blob.written_at)


def _noted(note: bytes) -> tuple[str, str]:
    """Return what a note says: a path and a digest.  Raises ValueError."""
    try:
        read = json.loads(note)
        return str(read["path"]), str(read["digest"])
    except (KeyError, TypeError) as error:
        raise ValueError("this is no note of an upload") from error


def _folder(tenant: str) -> str:
    return f"{FOLDER}/{tenant}"


def _key(path: str) -> str:
    return hashlib.sha256(path.encode(errors="replace")).hexdigest()
