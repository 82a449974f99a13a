"""A client of a running server, for scripts and for asyncio.  It needs httpx2 and imports nothing of the server."""

from lego_serve.client.answers import Images, Job, JobFailed, StillRunning, Unreachable
from lego_serve.client.clients import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "Images", "Job", "JobFailed", "StillRunning", "Unreachable"]
