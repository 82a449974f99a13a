"""Takes a lone guided lane's step on two replicas: the prompt's branch here, the negative's at a helper.

The two velocities are combined as the backbone combines them, element by element in fp32, so that the bits are those of
a step on one replica.  Whenever the helper is busy, slow or gone, both branches are computed here: nothing but time is
lost.
"""

import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from lego_serve.core.nodes.requests import HelperAddress
from lego_serve.core.placement.branch_window import BranchWindow
from lego_serve.engine.sharing.branch_wire import BranchClosed, BranchMessage, receive, send
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.device import uploaded
from lego_serve.models.ragged.lane_input import LaneInput

CONNECT_S = 1.0
LEAST_PATIENCE_S = 2.0  # for a helper's answer, or four times what the whole step is predicted to take
log = logging.getLogger("lego_serve.engine")


class BranchSplitter:
    """One replica's use of one helper at a time; used by its compute thread, but for ``offer``."""

    def __init__(
        self, backbone: Backbone, window: BranchWindow | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._backbone, self._window, self._clock = backbone, window or BranchWindow(), clock
        self._offers: list[HelperAddress] = []
        self._connection: socket.socket | None = None
        self._prompt: torch.Tensor | None = None  # that the helper has
        self._number = 0
        self.steps = 0  # taken on two replicas so far

    def offer(self, helpers: Sequence[HelperAddress]) -> None:
        """Replace the helpers that may be asked; from any thread."""
        self._offers = list(helpers)

    @property
    def has_helper(self) -> bool:
        """Whether there is anybody to ask."""
        return self._connection is not None or bool(self._offers)

    def velocity(self, lanes: int, lane: LaneInput, paired_s: float) -> torch.Tensor | None:
        """Return the guided velocity of the only one of so many ``lanes``; None where it is not to be split.

        ``paired_s``: the predicted seconds of the step on this replica alone.
        """
        began_s = self._clock()
        if not _is_divisible(self._backbone, lane):
            return None
        if not self._window.is_split(lanes=lanes, has_helper=self.has_helper, now=began_s):
            return None
        try:
            connection = self._connected()
            self._send(connection, lane)
            here = self._backbone.velocity([replace(lane, negative=None)])[0]
            connection.settimeout(max(LEAST_PATIENCE_S, 4.0 * paired_s))
            there = self._received(connection)
        except BranchClosed as closed:
            log.info("a helper is gone, both branches run here: %s", closed)
            self._give_up()
            return None
        except Exception:  # whatever it was: a step on one replica meets it again, where it is known what to do
            log.exception("a step on two replicas failed, both branches run here")
            self._give_up()
            return None
        if there is None:
            self._window.note_busy(self._clock())
            return None
        self.steps += 1
        self._window.note_split(paired_s, self._clock() - began_s, self._clock())
        return there + lane.guidance * (here - there)

    def _give_up(self) -> None:
        self.close()
        self._window.note_busy(self._clock())

    def close(self) -> None:
        """Let go of the helper."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._prompt = None

    def _connected(self) -> socket.socket:
        if self._connection is None:
            if not self._offers:
                raise BranchClosed("nobody is left")
            address = self._offers.pop(0)
            try:
                connection = socket.create_connection((address.host, address.port), CONNECT_S)
            except OSError as error:
                raise BranchClosed(type(error).__name__) from error
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection = connection
            send(connection, BranchMessage(address.token))
        return self._connection

    def _send(self, connection: socket.socket, lane: LaneInput) -> None:
        negative = lane.negative
        assert negative is not None
        if self._prompt is not negative.tokens:
            send(connection, BranchMessage("prompt", 0, {"tokens": negative.tokens, "pooled": negative.pooled}))
            self._prompt = negative.tokens
        self._number += 1
        numbers = {"time": lane.time, "guidance": lane.guidance}
        tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}
        send(connection, BranchMessage("step", self._number, tensors | {"latents": lane.latents}))

    def _received(self, connection: socket.socket) -> torch.Tensor | None:
        """Return the helper's velocity; None where it is busy.  Raises BranchClosed."""
        answer = receive(connection)
        if answer.number != self._number:
            raise BranchClosed(f"an answer to step {answer.number} in place of {self._number}")
        velocity = answer.tensors.get("velocity")
        return None if velocity is None else uploaded(velocity, self._backbone.device)


def _is_divisible(backbone: Backbone, lane: LaneInput) -> bool:
    """Whether a lane's step has two branches that need nothing but a prompt and the latents, nor each other's rows."""
    kept = lane.controls or lane.adapters or lane.reuse or lane.capture or lane.appended or lane.block_rows
    return backbone.uses_cfg and lane.negative is not None and not kept
