"""Computes guidance branches of lanes that other replicas of the same backbone run, while nothing else computes here.

It answers each step with a velocity, or at once with `busy` where anything computes or waits in this process, of
whichever model: the other side then computes both branches itself.  It never waits, since the other side holds a turn
of its own process meanwhile.  It keeps no state that anybody would miss.
"""

import contextlib
import hmac
import logging
import socket
import threading

import torch

from lego_serve.engine.sharing.branch_wire import BranchClosed, BranchMessage, receive, send
from lego_serve.engine.sharing.compute_turns import ComputeTurns
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.conditioning import PreparedPrompt
from lego_serve.models.ragged.device import uploaded
from lego_serve.models.ragged.lane_input import LaneInput

GREETING_S = 5.0  # in which a connection must say its token
MAX_CONNECTIONS = 16
log = logging.getLogger("lego_serve.engine")


class BranchHelper:
    """Listens for the branches of other replicas' lanes."""

    def __init__(self, backbone: Backbone, token: str, host: str, turns: ComputeTurns) -> None:
        """``turns``: those of all that compute in this process; connections must begin with ``token``."""
        self._backbone, self._token, self._turns = backbone, token.encode(), turns
        self._server = socket.create_server((host, 0))
        self.host, self.port = host, int(self._server.getsockname()[1])
        self._connections: set[socket.socket] = set()
        self._computing, self._is_closed = threading.Lock(), False
        self.branches = 0  # computed so far
        threading.Thread(target=self._accept, name="branch-helper", daemon=True).start()

    def close(self) -> None:
        """Listen no more, and break off what is connected; return once no branch is computed any more."""
        self._is_closed = True
        for each in (self._server, *list(self._connections)):
            _shut(each)
        with self._computing:
            pass

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return  # closed
            if len(self._connections) >= MAX_CONNECTIONS:
                connection.close()
                continue
            self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), name="branch", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        torch.set_num_threads(1)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(GREETING_S)
            if not hmac.compare_digest(receive(connection, 4096).word.encode(), self._token):
                raise BranchClosed("another token")
            connection.settimeout(None)
            prompt: PreparedPrompt | None = None
            while True:
                message = receive(connection)
                if message.word == "prompt":
                    prompt = self._prompt(message)
                elif prompt is None:
                    raise BranchClosed("a step before its prompt")
                else:
                    send(connection, self._answer(message, prompt))
        except BranchClosed:
            pass
        except Exception:
            log.exception("a branch of another replica's lane could not be computed")
        finally:
            self._connections.discard(connection)
            connection.close()

    def _prompt(self, message: BranchMessage) -> PreparedPrompt:
        device = self._backbone.device
        return PreparedPrompt(message.tensors["tokens"].to(device), message.tensors["pooled"].to(device))

    def _answer(self, message: BranchMessage, prompt: PreparedPrompt) -> BranchMessage:
        with self._computing, self._turns.turn_if_idle() as is_mine:
            if self._is_closed:
                raise BranchClosed("it helps no more")
            if not is_mine:
                return BranchMessage("busy", message.number)
            latents = uploaded(message.tensors["latents"], self._backbone.device)
            lane = LaneInput(latents, float(message.tensors["time"]), float(message.tensors["guidance"]), prompt, None)
            velocity = self._backbone.velocity([lane])[0]
        self.branches += 1
        return BranchMessage("velocity", message.number, {"velocity": velocity})


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was not connected
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
