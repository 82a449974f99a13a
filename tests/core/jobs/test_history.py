"""What is kept of jobs: their nodes in time, the replicas they were on, and their end."""

from dataclasses import replace

from lego_serve.core.addons import AdapterRequest
from lego_serve.core.jobs.dataflow import Dataflow
from lego_serve.core.jobs.events import CancelRequested, Event, JobSubmitted, TaskDone, TaskFailed
from lego_serve.core.jobs.history import OK, History, JobRecord
from lego_serve.core.jobs.job import Job, TaskStats
from lego_serve.errors import NodeError
from tests.support.gateway.runner import tiny_workflows

INPUTS = {"prompt": "a secret", "width": 128, "height": 96, "steps": 20, "n": 2, "seed": 3}
JOB = Job("job_1", "lego-tiny", INPUTS, 9.5, deadline_s=30.0, tenant="shop")


class Told:
    """A dataflow whose events a history hears."""

    def __init__(self, kept: int = 10) -> None:
        self.history, self._flow = History(kept), Dataflow()

    def feed(self, event: Event, now: float) -> None:
        """Tell both."""
        self.history.note(event, self._flow.handle(event, now), now)

    def submit(self, job: Job = JOB, now: float = 10.0) -> JobRecord:
        """Submit a job."""
        self.feed(JobSubmitted(job, tiny_workflows()[job.workflow]), now)
        return self.record(job.id)

    def record(self, job_id: str = "job_1") -> JobRecord:
        """What is known of a job."""
        record = self.history.get(job_id)
        assert record is not None
        return record

    def run(self, job: Job = JOB, now: float = 10.0) -> JobRecord:
        """Run a job to its end."""
        self.submit(job, now)
        for node in ("cond", "negative", "latents", "image"):
            now += 1
            self.feed(TaskDone(job.id, node, object(), TaskStats(run_s=0.5)), now)
        return self.record(job.id)


def test_a_job_has_its_parameters_and_no_words() -> None:
    """Numbers and names are shown; prompts and images are not kept at all."""
    job = replace(JOB, inputs=INPUTS | {"lora": (AdapterRequest("frame-r32"),)})
    record = Told().submit(job)
    assert record.parameters == {"width": 128, "height": 96, "steps": 20, "n": 2, "seed": 3}
    assert "secret" not in repr(record)
    assert (record.addons, record.tenant, record.deadline_s) == ((("lora", "frame-r32"),), "shop", 30.0)
    assert (record.began_s, record.steps, record.of_steps) == (9.5, {0: 0, 1: 0}, 20)


def test_nodes_are_known_from_their_dispatch_to_their_end() -> None:
    """Those that wait for nothing begin together, others when they may."""
    told = Told()
    assert {name: span.from_s for name, span in told.submit().spans.items()} == {"cond": 10.0, "negative": 10.0}
    told.feed(TaskDone("job_1", "cond", object(), TaskStats(0.1, 0.2)), 11.0)
    assert told.record().spans["cond"].to_s == 11.0
    told.feed(TaskDone("job_1", "negative", object(), TaskStats(cache_hit=True)), 12.0)
    latents = told.record().spans["latents"]
    assert (latents.kind, latents.from_s, latents.to_s) == ("denoise", 12.0, None)


def test_steps_rise_and_the_slowest_image_counts() -> None:
    """What a replica tells late or again takes nothing back."""
    told = Told()
    told.submit()
    for lane, step in ((0, 5), (1, 3), (0, 4), (0, -1)):
        told.history.note_step("job_1", lane, step, 20, 1.5, 11.0)
    record = told.record()
    assert (record.step, record.steps, record.eta_s, record.is_waiting) == (3, {0: 5, 1: 3}, 1.5, False)


def test_replicas_that_had_a_call_are_told_in_order() -> None:
    """A lost one with the step that it was known to have reached, and the one where it went on."""
    told = Told()
    told.submit()
    for node, now in (("cond", 11.0), ("negative", 11.0)):
        told.feed(TaskDone("job_1", node, object(), TaskStats()), now)
    told.history.note_attempt("job_1", "latents", "accepted", "b7f2", 11.1)
    told.history.note_step("job_1", 0, 10, 20, 1.0, 12.0)
    told.history.note_step("job_1", 1, 12, 20, 1.0, 12.0)
    told.history.note_attempt("job_1", "latents", "lost", "b7f2", 12.5)
    told.history.note_attempt("job_1", "latents", "accepted", "c01d", 13.0)
    first, second = told.record().spans["latents"].attempts
    assert (first.replica, first.at_s, first.end_s, first.end, first.step) == ("b7f2", 11.1, 12.5, "lost", 10)
    assert (second.replica, second.end, told.record().replica) == ("c01d", "", "c01d")


def test_ends_are_told_once_with_their_outcome() -> None:
    """A success, a failure with its words, and a client that left."""
    told, heard = Told(), []
    told.history.on_ended = heard.append
    assert (told.run().outcome, told.record().ended_s) == (OK, 14.0)
    told.submit(replace(JOB, id="job_2"))
    told.feed(TaskFailed("job_2", "cond", NodeError("It broke.")), 20.0)
    told.submit(replace(JOB, id="job_3"))
    told.feed(CancelRequested("job_3", "the client left"), 21.0)
    assert [(each.id, each.outcome) for each in heard] == [
        ("job_1", OK),
        ("job_2", "node_failed"),
        ("job_3", "job_cancelled"),
    ]
    assert heard[1].message == "It broke."
    assert told.history.live == []


def test_the_last_ones_are_kept_and_asked_for_by_number() -> None:
    """Older ones are gone; who has heard some asks for the rest."""
    told = Told(kept=3)
    for index in range(5):
        told.run(replace(JOB, id=f"job_{index}"), now=100.0 * index + 10)
    assert [record.number for record in told.history.ended()] == [3, 4, 5]
    assert [record.id for record in told.history.ended(since=4)] == ["job_4"]
    assert told.history.get("job_0") is None


def test_each_pause_is_kept_from_when_to_when() -> None:
    """Told twice it is one; the one that lasts has no end."""
    told = Told()
    told.submit()
    for is_paused, now in ((True, 12.0), (True, 13.0), (False, 14.0), (False, 15.0), (True, 16.0)):
        told.history.note_paused("job_1", is_paused, now)
    assert told.record().pauses == ((12.0, 14.0), (16.0, None))


def test_late_words_about_ended_jobs_change_nothing() -> None:
    """Streams may speak after their job is over."""
    told = Told()
    ended = told.run()
    told.history.note_step("job_1", 0, 3, 20, 1.0, 30.0)
    told.history.note_attempt("job_1", "latents", "lost", "b7f2", 30.0)
    told.history.note_paused("job_1", True, 3.0)
    assert told.record() == ended
