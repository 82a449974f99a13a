"""A backbone replica's part in the splitting of guidance branches: helping others, and knowing who may help it."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from lego_serve.core.nodes.computed import ComputedAs
from lego_serve.core.nodes.requests import HelperAddress, OfferHelp
from lego_serve.engine.sharing.branch_helper import BranchHelper
from lego_serve.engine.sharing.branch_splitter import BranchSplitter
from lego_serve.engine.sharing.compute_turns import ComputeTurns
from lego_serve.errors import LegoError
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.serving.errors import NodeLost

ASK_EVERY_S = 5.0  # at most: who may help changes by the minute
log = logging.getLogger("lego_serve.nodes")


class ReplicaGroup(Protocol):
    """All replicas of a node, this one among them."""

    async def control(self, command: OfferHelp) -> list[tuple[str, HelperAddress | None]]:
        """Ask each of them.  Raises NodeLost and LegoError."""
        ...


class BranchHelpers:
    """Asks a backbone's other replicas for help when a lane comes, and helps them when asked."""

    def __init__(
        self,
        backbone: Backbone,
        group: ReplicaGroup,
        turns: ComputeTurns,
        host: Callable[[], str],
        computes: ComputedAs,
    ) -> None:
        """``computes``: what this replica's bits follow from; nobody whose bits may be others is asked for help."""
        self._backbone, self._group, self._turns, self._host = backbone, group, turns, host
        self._computes, self._left_out = computes, frozenset[str]()
        self.splitter = BranchSplitter(backbone)
        self._helper: BranchHelper | None = None
        self._token = secrets.token_hex(16)
        self._asked_s = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Look who may help, unless that was done a short while ago."""
        now = time.monotonic()
        if now - self._asked_s >= ASK_EVERY_S and (self._asking is None or self._asking.done()):
            self._asked_s = now
            self._asking = asyncio.ensure_future(self._ask())

    def address(self) -> HelperAddress:
        """Where this replica helps; it listens from now on."""
        if self._helper is None:
            self._helper = BranchHelper(self._backbone, self._token, self._host(), self._turns)
        return HelperAddress(self._helper.host, self._helper.port, self._token, self._computes)

    def close(self) -> None:
        """Help nobody any more, and let go of who helps."""
        if self._helper is not None:
            self._helper.close()
        self.splitter.close()

    async def _ask(self) -> None:
        try:
            answers = await self._group.control(OfferHelp())
        except (NodeLost, LegoError):
            return  # it is asked again with the next lane
        others = [(name, each) for name, each in answers if each is not None and each.token != self._token]
        unlike = {name: self._computes.differences(each.computes) for name, each in others}
        self.splitter.offer([each for name, each in others if not unlike[name]])
        self._tell({name: differences for name, differences in unlike.items() if differences})

    def _tell(self, left_out: Mapping[str, Sequence[str]]) -> None:
        """Log who is not asked and why, once as long as nothing changes."""
        told = frozenset(f"{name} has another {', '.join(each)}" for name, each in left_out.items())
        for line in sorted(told - self._left_out):
            log.warning("no branches are computed by a replica whose bits may be others: %s", line)
        self._left_out = told
