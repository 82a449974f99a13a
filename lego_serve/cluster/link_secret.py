"""Replaces the secret that signs links to the images of jobs, for when it may be known to others."""

import asyncio
from pathlib import Path

from lego_serve.configuration.jobs import EMBEDDED, NO_STORE
from lego_serve.errors import ConfigError
from lego_serve.gateway.links.signed_urls import rotate
from lego_serve.job_storage import job_folder, open_store
from lego_serve.places import state_folder
from lego_serve.served_workflows import configured


def rotate_link_secret(config_path: Path) -> None:
    """Put a new secret in place of the store's.  Raises ConfigError, StoreUnavailable."""
    settings, _ = configured(config_path)
    if settings.jobs.store == NO_STORE:
        raise ConfigError(f"{config_path}: `jobs.store` is `{NO_STORE}`, so no links are signed")
    folder = job_folder(settings, settings.server.port, state_folder(settings))
    assert folder is not None
    if settings.jobs.store == EMBEDDED and not (folder / "jobs.db").is_file():
        raise ConfigError(f"{config_path}: there is no store of jobs in {folder}; has this server ever run?")

    async def do() -> None:
        store = open_store(settings.jobs, folder)
        try:
            await rotate(store)
        finally:
            await store.close()

    asyncio.run(do())
