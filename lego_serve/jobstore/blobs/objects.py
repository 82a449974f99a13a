"""Files as objects of S3, or of what speaks its protocol, of Google Cloud Storage, or of Azure; through `obstore`.

An object is whole or not there and is durable once it is acknowledged, so there is nothing to rename or sync.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import from_url

from lego_serve.errors import ConfigError, StoreUnavailable
from lego_serve.jobstore.blobs.port import Blob

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

TIMEOUT_S, RETRY_S, RETRIES = 10, 20, 5


class ObjectBlobs:
    """Blobs below the prefix of an object store."""

    def __init__(self, store: "ObjectStore") -> None:
        self._store = store

    def write(self, folder: str, name: str, content: bytes, *, is_durable: bool) -> None:
        """Put an object, which is always durable."""
        with _answering():
            obstore.put(self._store, f"{folder}/{name}", content, use_multipart=False)

    def create(self, folder: str, name: str, content: bytes) -> bool:
        """Put an object where there is none."""
        with _answering():
            try:
                obstore.put(self._store, f"{folder}/{name}", content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def read(self, folder: str, name: str) -> bytes:
        """Return an object's content."""
        with _answering():
            return obstore.get(self._store, f"{folder}/{name}").bytes().to_bytes()

    def path(self, folder: str, name: str) -> Path | None:
        """Return nothing: an object has no file."""
        return None

    def list(self, folder: str) -> Sequence[Blob]:
        """Return the objects of a folder."""
        with _answering():
            found = obstore.list(self._store, prefix=folder).collect()
        return [
            Blob(each["path"].rpartition("/")[2], each["size"], each["last_modified"].timestamp()) for each in found
        ]

    def delete(self, folder: str, names: Sequence[str]) -> None:
        """Remove objects."""
        for name in names:
            with _answering():
                try:
                    obstore.delete(self._store, f"{folder}/{name}")
                except FileNotFoundError:
                    continue

    def delete_folder(self, folder: str) -> None:
        """Remove all objects of a folder."""
        self.delete(folder, [blob.name for blob in self.list(folder)])

    def folders(self) -> Sequence[str]:
        """Return the first parts of all paths."""
        with _answering():
            found = obstore.list_with_delimiter(self._store)["common_prefixes"]
        return [path.rpartition("/")[2] for path in found]


def open_objects(url: str) -> ObjectBlobs:
    """Return the objects at a URL, such as ``s3://BUCKET/PREFIX``; the environment holds what opens them.

    Raises ConfigError.
    """
    seconds = timedelta(seconds=TIMEOUT_S)
    options: ClientConfig = {"timeout": seconds, "connect_timeout": seconds, "allow_http": True}  # as the endpoint says
    retry: RetryConfig = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)}
    try:
        return ObjectBlobs(from_url(url, client_options=options, retry_config=retry))
    except (BaseError, ValueError) as error:
        raise ConfigError(f"`jobs.objects` {url} cannot be opened: {error}") from None


@contextmanager
def _answering() -> Iterator[None]:
    """Raise StoreUnavailable for what an object store does not do."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as error:
        raise StoreUnavailable("The object store of jobs does not answer; try again later.") from error
