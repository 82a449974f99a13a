"""A lone lane's guidance branches on two replicas: the bits of one, and nothing lost with the helper."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from lego_serve.core.cluster.parallelism import ParallelRule
from lego_serve.core.nodes.computed import ComputedAs
from lego_serve.core.nodes.requests import HelperAddress
from lego_serve.core.placement.branch_window import BranchWindow
from lego_serve.engine.calibration import sample_lane
from lego_serve.engine.sharing import branch_splitter
from lego_serve.engine.sharing.branch_helper import BranchHelper
from lego_serve.engine.sharing.branch_splitter import BranchSplitter
from lego_serve.engine.sharing.branch_wire import BranchClosed, BranchMessage, receive, send
from lego_serve.engine.sharing.compute_turns import ComputeTurns
from lego_serve.models.loading import load_backbone
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.registry import ModelSpec

PATIENCE_S = 60.0
HERE = ComputedAs("weights", "torch.float32", "dense", "this machine")
ALWAYS = ParallelRule(min_speed_up=0.0)  # two threads of one process are no faster than one


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """The model of the package, in the dtype that this machine serves it in."""
    return load_backbone(ModelSpec("lego-tiny", "builtin:lego-tiny", max_sequence_length=0))[0]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper that a busy machine holds up is waited for."""
    monkeypatch.setattr(branch_splitter, "CONNECT_S", PATIENCE_S)
    monkeypatch.setattr(branch_splitter, "LEAST_PATIENCE_S", PATIENCE_S)


@pytest.fixture
def turns() -> ComputeTurns:
    """Those of the helper's process."""
    return ComputeTurns()


@pytest.fixture
def helper(backbone: Backbone, turns: ComputeTurns) -> Iterator[BranchHelper]:
    """A helper that listens on this machine."""
    listening = BranchHelper(backbone, "token", "127.0.0.1", turns)
    yield listening
    listening.close()


def splitter(backbone: Backbone, helper: BranchHelper, token: str = "token") -> BranchSplitter:
    """One that knows of a helper."""
    made = BranchSplitter(backbone, BranchWindow(ALWAYS))
    made.offer([HelperAddress(helper.host, helper.port, token, HERE)])
    return made


def guided(backbone: Backbone, side: int, seed: int) -> LaneInput:
    """A lane whose two prompts differ."""
    other = sample_lane(backbone, 4, seed + 1000)
    return replace(sample_lane(backbone, side, seed), negative=other.cond, guidance=4.5, time=0.37)


@pytest.mark.parametrize("side", [4, 8, 11, 16])
def test_a_step_on_two_replicas_has_the_bits_of_one(backbone: Backbone, helper: BranchHelper, side: int) -> None:
    """In every size, step after step, and with another prompt after the first."""
    split = splitter(backbone, helper)
    for seed in range(3):
        lane = guided(backbone, side, seed)
        there = split.velocity(1, lane, 1.0)
        assert there is not None
        assert torch.equal(there, backbone.velocity([lane])[0])
    assert (split.steps, helper.branches) == (3, 3)


def test_a_lane_in_company_or_of_one_branch_stays_on_its_replica(backbone: Backbone, helper: BranchHelper) -> None:
    """So does one of which the helper does not know enough."""
    split, lane = splitter(backbone, helper), guided(backbone, 4, 0)
    assert split.velocity(2, lane, 1.0) is None
    assert split.velocity(1, replace(lane, negative=None), 1.0) is None
    assert split.velocity(1, replace(lane, block_rows=(16, 8, 8)), 1.0) is None, "both branches choose its rows"
    assert helper.branches == 0


def test_a_helper_with_lanes_of_its_own_is_left_alone_for_a_while(
    backbone: Backbone, helper: BranchHelper, turns: ComputeTurns
) -> None:
    """It says so at once, also between two of their steps, and is asked again later."""
    now = 0.0
    split = BranchSplitter(backbone, BranchWindow(ALWAYS), lambda: now)
    split.offer([HelperAddress(helper.host, helper.port, "token", HERE)])
    lane = guided(backbone, 4, 0)
    turns.note_working("a lane", is_working=True)
    assert split.velocity(1, lane, 1.0) is None
    turns.note_working("a lane", is_working=False)
    assert split.velocity(1, lane, 1.0) is None  # too soon
    now = 1.0
    assert split.velocity(1, lane, 1.0) is not None


def test_two_models_alone_on_two_workers_never_wait_for_each_other(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its worker's turn while it asks the other worker's helper, which has no turn then and says so."""
    monkeypatch.setattr(branch_splitter, "LEAST_PATIENCE_S", 10.0)  # two that wait for each other give up after it
    workers = [ComputeTurns(), ComputeTurns()]
    helpers = [BranchHelper(backbone, "token", "127.0.0.1", turns) for turns in reversed(workers)]
    splitters = [splitter(backbone, helper) for helper in helpers]
    both_compute, both_were_told = threading.Barrier(2), threading.Barrier(2)
    answers: list[torch.Tensor | None] = []

    def step(turns: ComputeTurns, split: BranchSplitter, seed: int) -> None:
        with turns.turn(0.0):
            both_compute.wait(PATIENCE_S)
            answers.append(split.velocity(1, guided(backbone, 4, seed), 1.0))
            both_were_told.wait(PATIENCE_S)

    threads = [threading.Thread(target=step, args=each) for each in zip(workers, splitters, (0, 1), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [None, None]
    assert all(split.has_helper for split in splitters), "neither was given up for silence"
    for split in splitters:
        split.close()
    for helper in helpers:
        helper.close()


def test_a_helper_that_goes_costs_nothing_but_time(backbone: Backbone, helper: BranchHelper) -> None:
    """The step is then this replica's own, and so are the next."""
    split, lane = splitter(backbone, helper), guided(backbone, 4, 0)
    assert split.velocity(1, lane, 1.0) is not None
    helper.close()
    assert split.velocity(1, lane, 1.0) is None
    assert not split.has_helper


def test_whoever_does_not_know_the_token_hears_nothing(backbone: Backbone, helper: BranchHelper) -> None:
    """And computes nothing here."""
    assert splitter(backbone, helper, "another").velocity(1, guided(backbone, 4, 0), 1.0) is None
    assert helper.branches == 0


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, b"\x05\x00\x00\x00\x00\x00\x00\x00nojson"])
def test_what_is_no_message_closes_the_connection(helper: BranchHelper, sent: bytes) -> None:
    """At once; the next one is heard."""
    with socket.create_connection((helper.host, helper.port), PATIENCE_S) as connection:
        connection.sendall(sent)
        connection.settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    with socket.create_connection((helper.host, helper.port), PATIENCE_S) as connection:
        send(connection, BranchMessage("token"))


def test_a_message_arrives_as_it_was_sent() -> None:
    """Tensors of any dtype and shape, also of none."""
    here, there = socket.socketpair()
    tensors = {
        "a": torch.randn(3, 4),
        "b": torch.randn(2, 2).to(torch.bfloat16),
        "c": torch.tensor(0.1, dtype=torch.float64),
        "d": torch.zeros(0, 7),
    }
    with here, there:
        thread = threading.Thread(target=send, args=(here, BranchMessage("step", 7, tensors)))
        thread.start()
        message = receive(there)
        thread.join()
        assert (message.word, message.number) == ("step", 7)
        for name, tensor in tensors.items():
            assert message.tensors[name].dtype == tensor.dtype
            assert torch.equal(message.tensors[name], tensor)


def test_a_silent_helper_is_given_up_in_time() -> None:
    """A read that takes too long is as good as a closed connection."""
    here, there = socket.socketpair()
    with here, there:
        there.settimeout(0.05)
        began_s = time.monotonic()
        with pytest.raises(BranchClosed):
            receive(there)
        assert time.monotonic() - began_s < PATIENCE_S


def test_whatever_fails_in_a_split_step_is_met_again_on_one_replica(
    backbone: Backbone, helper: BranchHelper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is known what to do about it: the lane does not fail for having been split."""
    split = splitter(backbone, helper)

    def fail(lane: LaneInput) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(split, "_send", lambda connection, lane: fail(lane))
    assert split.velocity(1, guided(backbone, 4, 0), 1.0) is None
    assert not split.has_helper
