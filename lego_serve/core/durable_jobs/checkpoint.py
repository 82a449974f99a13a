"""The envelope of a durable checkpoint: the bytes of a job's lanes, and whose they are.

A lane's own bytes say which weights, schedule and seed they are of; a backbone that has others starts the lane again.
The envelope says of which job, workflow and inputs they are, so that a redeploy between two attempts never ends as an
image that neither version would make.

    b"LEGOCKPT" | length of the header, 4 bytes | header, JSON | bytes of each lane, in the header's order
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lego_serve.core.jobs.progress import LaneCheckpoint

MAGIC = b"LEGOCKPT"
FORMAT = 1
MAX_HEADER_BYTES = 1 << 20


class DamagedCheckpoint(ValueError):
    """Bytes that are no checkpoint of this version, or not whole."""


@dataclass(frozen=True, slots=True)
class LaneKey:
    """A lane of a job: image ``lane`` of denoising node ``node``."""

    node: str
    lane: int


@dataclass(frozen=True, slots=True)
class JobCheckpoint:
    """The last durable state of a job's lanes.  ``workflow_hash`` is of the graph and the job's bound inputs."""

    job_id: str
    attempt: int
    workflow_hash: str
    lanes: Mapping[LaneKey, LaneCheckpoint]

    def lanes_for(self, job_id: str, workflow_hash: str) -> Mapping[LaneKey, LaneCheckpoint]:
        """Return the lanes that may go on in this job, none where it is another job or has another workflow by now."""
        return self.lanes if (self.job_id, self.workflow_hash) == (job_id, workflow_hash) else {}


def pack(checkpoint: JobCheckpoint) -> bytes:
    """Return a checkpoint's bytes."""
    lanes = [
        asdict(key) | {"step": lane.step, "bytes": len(lane.state), "sha256": hashlib.sha256(lane.state).hexdigest()}
        for key, lane in checkpoint.lanes.items()
    ]
    header = json.dumps(
        {
            "format": FORMAT,
            "job": checkpoint.job_id,
            "attempt": checkpoint.attempt,
            "workflow": checkpoint.workflow_hash,
            "lanes": lanes,
        }
    ).encode()
    states = (lane.state for lane in checkpoint.lanes.values())
    return b"".join((MAGIC, len(header).to_bytes(4, "big"), header, *states))


def unpack(content: bytes) -> JobCheckpoint:
    """Return the checkpoint of these bytes.  Raises DamagedCheckpoint."""
    try:
        header, start = _header(content)
        lanes: dict[LaneKey, LaneCheckpoint] = {}
        for entry in header["lanes"]:
            step, size, digest = int(entry.pop("step")), entry.pop("bytes"), entry.pop("sha256")
            state = content[start : start + size]
            if type(size) is not int or size < 0 or hashlib.sha256(state).hexdigest() != digest:
                raise DamagedCheckpoint(f"lane {entry.get('lane')} of a checkpoint is damaged")
            lanes[LaneKey(**entry)] = LaneCheckpoint(step, state)
            start += size
        if start != len(content):
            raise DamagedCheckpoint(f"a checkpoint of {start} bytes has {len(content)}")
        return JobCheckpoint(str(header["job"]), int(header["attempt"]), str(header["workflow"]), lanes)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedCheckpoint(f"a checkpoint cannot be read: {error!r}") from None


def _header(content: bytes) -> tuple[dict[str, Any], int]:
    start = len(MAGIC) + 4
    size = int.from_bytes(content[len(MAGIC) : start], "big")
    if not content.startswith(MAGIC) or size > MAX_HEADER_BYTES or len(content) < start + size:
        raise DamagedCheckpoint("these bytes are no checkpoint, or not a whole one")
    header = json.loads(content[start : start + size])
    if header["format"] != FORMAT:
        raise DamagedCheckpoint(f"a checkpoint has format {header['format']!r}; this version reads {FORMAT}")
    return header, start + size
