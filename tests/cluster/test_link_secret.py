"""The secret that signs links is replaced by a command."""

import asyncio
import time
from pathlib import Path

from lego_serve.gateway.links.signed_urls import SETTING, url_signer
from lego_serve.jobstore.sqlite import SqliteJobStore

CONFIG = """
server: {{data: "{data}", port: 8123}}
models: {{lego-tiny: {{path: "builtin:lego-tiny", max_sequence_length: 0}}}}
"""


async def secrets_in(folder: Path) -> list[str]:
    """The secrets of a store, the one that signs first; a gateway makes the first."""
    store = SqliteJobStore(folder / "jobs.db", time.time, 15.0)
    try:
        await url_signer(store)
        return (await store.setting(SETTING, "")).split()
    finally:
        await store.close()


def test_links_have_a_new_secret_beside_the_last_one(command, tmp_path: Path) -> None:
    """In the store that the configuration's server has; the last but one is forgotten."""
    config, folder = tmp_path / "config.yaml", tmp_path / "data" / "jobs" / "8123"
    config.write_text(CONFIG.format(data=tmp_path / "data"))
    folder.mkdir(parents=True)
    [first] = asyncio.run(secrets_in(folder))
    assert command("cluster", "rotate-links", str(config))[:2] == (0, "links have a new secret; restart the gateways\n")
    second, last = asyncio.run(secrets_in(folder))
    assert last == first != second
    assert command("cluster", "rotate-links", str(config))[0] == 0
    assert asyncio.run(secrets_in(folder))[1] == second


def test_without_a_store_there_is_nothing_to_replace(command, tmp_path: Path) -> None:
    """Neither where the configuration wants none, nor where the server has never run; nothing is left behind."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(data=tmp_path / "data"))
    status, _, said = command("cluster", "rotate-links", str(config))
    assert status == 1
    assert "has this server ever run?" in said
    config.write_text(CONFIG.format(data=tmp_path / "data") + "jobs: {store: none}\n")
    status, _, said = command("cluster", "rotate-links", str(config))
    assert status == 1
    assert "no links are signed" in said
    assert sorted(tmp_path.iterdir()) == [config]
