"""The settings of durable jobs in one gateway."""

from dataclasses import dataclass, field

from lego_serve.core.durable_jobs.transitions import Retention


@dataclass(frozen=True, slots=True)
class JobSettings:
    """How many durable jobs a gateway runs, how many a tenant may have open, and how often what is written down.

    ``owner`` is this process, under a name that no other ever had; ``lease_s`` is the store's; ``max_stored_bytes`` is
    what the files of one tenant's jobs may take.
    """

    owner: str
    max_running: int = 16
    max_queued: int = 1000
    max_stored_bytes: int = 10 * 2**30
    checkpoint_s: float = 10.0
    lease_s: float = 15.0
    retention: Retention = field(default_factory=Retention)
    progress_s: float = 0.5
    sweep_s: float = 2.0
