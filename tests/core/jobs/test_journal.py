"""Decisions, and what is said of a replica that went."""

from lego_serve.core.jobs.dataflow import Dataflow
from lego_serve.core.jobs.events import JobSubmitted, TaskDone
from lego_serve.core.jobs.job import Job, TaskStats
from lego_serve.core.jobs.journal import Journal
from tests.support.gateway.runner import tiny_workflows


def on_replica(replica: str) -> Journal:
    """A journal of one job with two images, which a replica has."""
    journal, flow = Journal(), Dataflow()
    job = Job("job_1", "lego-tiny", {"prompt": "a", "steps": 20, "n": 2}, 0.0)
    events = [JobSubmitted(job, tiny_workflows()["lego-tiny"])]
    events += [TaskDone("job_1", node, object(), TaskStats()) for node in ("cond", "negative")]  # type: ignore[misc]
    for event in events:
        journal.history.note(event, flow.handle(event, 1.0), 1.0)
    journal.history.note_attempt("job_1", "latents", "accepted", replica, 2.0)
    return journal


def test_a_lost_replica_is_told_with_what_it_had() -> None:
    """How many images go on elsewhere, and one of their jobs to look at."""
    journal = on_replica("b7f2")
    journal.note_departed(["b7f2"], 3.0)
    [decision] = journal.decisions()
    assert (decision.kind, decision.subject, decision.job) == ("lost", "b7f2", "job_1")
    assert decision.why.endswith("its 2 images go on elsewhere")


def test_a_replica_that_had_nothing_is_told_so() -> None:
    """No job is named."""
    journal = on_replica("b7f2")
    journal.note_departed(["c01d"], 3.0)
    [decision] = journal.decisions()
    assert (decision.job, decision.why.endswith("it had nothing in hand")) == ("", True)


def test_a_call_that_breaks_off_tells_of_its_replica_at_once() -> None:
    """With the node that it belongs to; that it has departed, which the cluster says later, is no second decision."""
    journal = on_replica("b7f2")
    journal.note_attempt("job_1", "latents", "lost", "b7f2", 2.5)
    journal.note_departed(["b7f2"], 20.0)
    [decision] = journal.decisions()
    assert (decision.at_s, decision.node, decision.job) == (2.5, "lego-tiny.backbone", "job_1")
    record = journal.history.get("job_1")
    assert record is not None
    assert record.spans["latents"].attempts[0].end == "lost"


def test_a_burst_is_one_decision_with_a_count() -> None:
    """The same within five seconds counts up, and has a new number, so that who has heard of it hears again."""
    journal = Journal()
    for at in (1.0, 2.0, 3.0):
        journal.decide("refuse", "requests", "all places are taken", at)
    journal.decide("refuse", "requests", "the tenant has its part", 3.5)
    journal.decide("refuse", "requests", "all places are taken", 30.0)
    assert [(each.count, each.at_s) for each in journal.decisions()] == [(3, 3.0), (1, 3.5), (1, 30.0)]
    assert [each.number for each in journal.decisions(since=3)] == [4, 5]


def test_only_the_last_decisions_are_kept() -> None:
    """Five hundred."""
    journal = Journal()
    for at in range(600):
        journal.decide("drain", f"r{at}", "an operator asked", float(at))
    assert [each.subject for each in journal.decisions()][:1] == ["r100"]
