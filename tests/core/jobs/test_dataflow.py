"""Dataflow: what it commands for what happened, on small graphs by hand and on random ones."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_serve.core.jobs.dataflow import STORIES_KEPT, Dataflow
from lego_serve.core.jobs.events import (
    CancelRequested,
    CancelTask,
    Command,
    DeadlinePassed,
    Dispatch,
    Event,
    Fail,
    Finish,
    InputsLost,
    JobSubmitted,
    TaskDone,
    TaskFailed,
)
from lego_serve.core.jobs.job import Job, Task, TaskStats
from lego_serve.core.scheduling.retry import JOB_RERUNS
from lego_serve.core.workflow.graph import Node, Source, Workflow
from lego_serve.errors import DeadlineExceeded, JobCancelled, NodeError

Graph = dict[str, tuple[str, ...]]
DIAMOND: Graph = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}


def workflow_of(graph: Graph) -> Workflow:
    """A workflow whose nodes take the values of the nodes they name; the last one is the output."""
    nodes = {
        name: Node(name, "step", "m", {f"from_{n}": Source(n, "out") for n in needs}) for name, needs in graph.items()
    }
    return Workflow("graph", "1", {}, nodes, {"image": Source(list(graph)[-1], "out")})


def submit(graph: Graph, job_id: str = "j") -> JobSubmitted:
    return JobSubmitted(Job(job_id, "graph", {}, 0.0), workflow_of(graph))


def done(node: str, job_id: str = "j") -> TaskDone:
    return TaskDone(job_id, node, f"value of {node}", TaskStats(run_s=1.0))


def dispatched(commands: list[Command]) -> list[str]:
    return [c.task.node for c in commands if isinstance(c, Dispatch)]


def feed(flow: Dataflow, *events: Event) -> list[Command]:
    """Handle events in turn, checking after each; answers the commands of the last."""
    commands: list[Command] = []
    for event in events:
        commands = flow.handle(event, 0.0)
        flow.check()
    return commands


def test_nodes_that_wait_for_nothing_start_together() -> None:
    """Every node without a dependency is dispatched by the submission itself."""
    assert dispatched(feed(Dataflow(), submit({"a": (), "b": (), "c": ("a", "b")}))) == ["a", "b"]


def test_independent_branches_run_at_the_same_time() -> None:
    """Both branches of a diamond are dispatched as soon as what they share is done."""
    assert dispatched(feed(Dataflow(), submit(DIAMOND), done("a"))) == ["b", "c"]


def test_a_join_waits_for_all_its_branches() -> None:
    """A node is dispatched by the last of its dependencies, not by an earlier one."""
    flow = Dataflow()
    assert dispatched(feed(flow, submit(DIAMOND), done("a"), done("c"))) == []
    assert dispatched(feed(flow, done("b"))) == ["d"]


def test_finish_carries_outputs_and_costs() -> None:
    """The last task's end finishes the job with its outputs and what every node cost."""
    commands = feed(Dataflow(), submit(DIAMOND), done("a"), done("b"), done("c"), done("d"))
    costs = dict.fromkeys("abcd", TaskStats(run_s=1.0))
    assert commands == [Finish("j", {"image": "value of d"}, costs)]


def test_costs_say_when_a_node_was_sent_off_and_when_it_was_done() -> None:
    """On the coordinator's clock; of a node that ran again, its last run."""
    flow = Dataflow()
    times = {"a": 1.0, "b": 2.0, "c": 4.0}
    flow.handle(submit(DIAMOND), 0.5)
    for node, now in times.items():
        flow.handle(done(node), now)
    flow.handle(InputsLost("j", "d", frozenset("b")), 5.0)
    flow.handle(done("b"), 6.0)
    [finish] = flow.handle(done("d"), 8.0)
    assert isinstance(finish, Finish)
    ran = {node: (stats.began_s, stats.ended_s) for node, stats in finish.stats.items()}
    assert ran == {"a": (0.5, 1.0), "b": (5.0, 6.0), "c": (1.0, 4.0), "d": (6.0, 8.0)}


def test_a_task_has_plain_inputs_literals_and_refs() -> None:
    """Inputs become plain values, absent optional ones are left out, literals stay, nodes become Refs."""
    arguments: dict[str, object] = {
        "prompt": Source("inputs", "prompt"),
        "init": Source("inputs", "image"),
        "steps": 4,
        "cond": Source("a", "cond"),
    }
    nodes = {"a": Node("a", "text_encode", "m"), "b": Node("b", "denoise", "m2", arguments)}
    workflow = Workflow("w", "1", {}, nodes, {"image": Source("b", "latents")})
    job = Job("j", "w", {"prompt": "a cat", "image": None}, 0.0, deadline_s=9.0, weight=2.0)
    commands = feed(Dataflow(), JobSubmitted(job, workflow), done("a"))
    inputs = {"prompt": "a cat", "steps": 4, "cond": "value of a"}
    assert commands == [Dispatch(Task("j", "b", "denoise", "m2", inputs, 9.0, 2.0))]


def test_a_failure_cancels_what_is_out_and_fails_the_job() -> None:
    """When one branch fails the other is cancelled before the job fails with the branch's error."""
    error = NodeError("broken")
    commands = feed(Dataflow(), submit(DIAMOND), done("a"), TaskFailed("j", "b", error))
    stats = {"a": done("a").stats, "b": TaskStats(), "c": TaskStats()}
    assert commands == [CancelTask("j", "c"), Fail("j", error, stats)]


@pytest.mark.parametrize(
    ("event", "error"),
    [(CancelRequested("j", "the client left"), JobCancelled), (DeadlinePassed("j"), DeadlineExceeded)],
)
def test_cancellation_and_deadline_stop_everything(event: Event, error: type[Exception]) -> None:
    """A cancelled or late job has all its tasks cancelled and fails with the error that says why."""
    *cancels, fail = feed(Dataflow(), submit(DIAMOND), done("a"), event)
    assert cancels == [CancelTask("j", "b"), CancelTask("j", "c")]
    assert isinstance(fail, Fail)
    assert type(fail.error) is error


def test_late_answers_change_nothing() -> None:
    """Answers for a job that has ended, or for a task that is not out, are ignored."""
    flow = Dataflow()
    feed(flow, submit(DIAMOND), done("a"))
    assert feed(flow, done("a")) == []
    assert feed(flow, done("d")) == []
    feed(flow, DeadlinePassed("j"))
    assert feed(flow, done("b")) == []
    assert feed(flow, CancelRequested("unheard-of", "why not")) == []
    assert flow.in_flight == 0


def test_a_job_is_not_submitted_twice() -> None:
    """Submitting a job in flight is a ValueError and leaves the job as it was; after its end it may come again."""
    flow = Dataflow()
    feed(flow, submit(DIAMOND))
    with pytest.raises(ValueError, match="already in flight"):
        flow.handle(submit(DIAMOND), 0.0)
    assert dispatched(feed(flow, done("a"))) == ["b", "c"]
    feed(flow, CancelRequested("j", "enough"))
    assert dispatched(feed(flow, submit(DIAMOND))) == ["a"]


def test_a_lost_output_is_made_again_for_who_missed_it() -> None:
    """The node that made it runs again, then the one that missed it; who has read it goes on."""
    flow = Dataflow()
    feed(flow, submit(DIAMOND), done("a"))
    assert dispatched(feed(flow, InputsLost("j", "b", frozenset({"a"})))) == ["a"]
    assert dispatched(feed(flow, done("c"))) == []
    assert dispatched(feed(flow, done("a"))) == ["b"]
    assert dispatched(feed(flow, done("b"))) == ["d"]


def test_outputs_that_are_lost_again_and_again_are_given_up() -> None:
    """As the server's fault, with the node they came from."""
    flow = Dataflow()
    feed(flow, submit(DIAMOND), done("a"))
    for _ in range(JOB_RERUNS):
        feed(flow, InputsLost("j", "b", frozenset({"a"})), done("a"))
    [cancel, fail] = feed(flow, InputsLost("j", "b", frozenset({"a"})))
    assert (cancel, type(fail)) == (CancelTask("j", "c"), Fail)
    assert isinstance(fail, Fail)
    assert "Outputs of a were lost too often" in fail.error.message


def test_the_story_tells_a_job_from_start_to_end() -> None:
    """The story has one line for each event and decision, with its time."""
    flow = Dataflow()
    for at, event in enumerate([submit({"a": ()}), done("a")]):
        flow.handle(event, float(at))
    assert flow.story("j") == (
        "0.000000 submitted to graph",
        "0.000000 dispatch a",
        "1.000000 done a",
        "1.000000 finished",
    )
    assert flow.story("other") == ()


def test_stories_do_not_grow_without_bound() -> None:
    """Only the latest ended jobs' stories are kept."""
    flow = Dataflow()
    for index in range(STORIES_KEPT + 2):
        feed(flow, submit({"a": ()}, f"j{index}"), done("a", f"j{index}"))
    assert flow.story("j1") == ()
    assert "finished" in flow.story("j2")[-1]


def test_check_names_a_broken_invariant() -> None:
    """A node that is in no state at all is found, and the job's story is told with it."""
    flow = Dataflow()
    feed(flow, submit(DIAMOND))
    flow._jobs["j"].out.clear()
    with pytest.raises(AssertionError, match=r"nodes lost\n.*submitted to graph"):
        flow.check()


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Random acyclic graphs of one to eight nodes."""
    names = [f"n{i}" for i in range(draw(st.integers(1, 8)))]
    subsets = [st.lists(st.sampled_from(names[:i]), unique=True) if i else st.just([]) for i in range(len(names))]
    return {name: tuple(draw(subset)) for name, subset in zip(names, subsets, strict=True)}


@dataclass
class Watcher:
    """Follows one job by its commands alone and objects when a rule is broken."""

    graph: Graph
    started: list[str] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)  # that lost their inputs and have not run again yet
    ends: int = 0

    @property
    def out(self) -> list[str]:
        return [n for n in dict.fromkeys(self.started) if n not in self.answered | self.cancelled | self.dropped]

    def see(self, command: Command) -> None:
        assert not self.ends, "a command after the end"
        match command:
            case Dispatch(task=task):
                assert task.node not in self.out
                assert task.node not in self.answered
                assert set(self.graph[task.node]) <= self.answered
                assert task.inputs == {f"from_{n}": f"value of {n}" for n in self.graph[task.node]}
                self.started.append(task.node)
                self.dropped.discard(task.node)
            case CancelTask(node=node):
                assert node in self.out
                self.cancelled.add(node)
            case Finish():
                assert self.answered == set(self.graph)
                self.ends += 1
            case Fail():
                assert not self.out
                self.ends += 1


@settings(max_examples=150, deadline=None)
@given(st.lists(graphs(), min_size=1, max_size=3), st.data())
def test_every_job_runs_each_task_until_nothing_is_lost_and_ends_once(shapes: list[Graph], data: st.DataObject) -> None:
    """Whatever the graphs and events: once unless an output is lost, after its dependencies, one end, check() holds."""
    flow = Dataflow()
    jobs = {f"job{i}": Watcher(shape) for i, shape in enumerate(shapes)}

    def happen(job_id: str, event: Event) -> None:
        for command in flow.handle(event, 0.0):
            jobs[job_id].see(command)
        flow.check()
        assert flow.in_flight == sum(not w.ends for w in jobs.values() if w.started), flow.story(job_id)

    for job_id, watcher in jobs.items():
        happen(job_id, submit(watcher.graph, job_id))
    while running := [job_id for job_id, watcher in jobs.items() if not watcher.ends]:
        job_id = data.draw(st.sampled_from(running))
        watcher = jobs[job_id]
        node = data.draw(st.sampled_from(watcher.out))
        match data.draw(st.sampled_from(["done"] * 12 + ["lost"] * 2 + ["late", "failed", "cancel", "deadline"])):
            case "done":
                watcher.answered.add(node)
                happen(job_id, done(node, job_id))
            case "late":
                happen(
                    job_id, done(data.draw(st.sampled_from(sorted({*watcher.graph} - {*watcher.out} | {"x"}))), job_id)
                )
            case "lost" if watcher.graph[node]:
                lost = data.draw(st.sets(st.sampled_from(watcher.graph[node]), min_size=1))
                watcher.dropped |= {node} | lost & watcher.answered
                watcher.answered -= lost
                happen(job_id, InputsLost(job_id, node, frozenset(lost)))
            case "failed":
                watcher.answered.add(node)
                happen(job_id, TaskFailed(job_id, node, NodeError("broken")))
                assert watcher.ends
            case "cancel":
                happen(job_id, CancelRequested(job_id, "enough"))
                assert watcher.ends
            case "deadline":
                happen(job_id, DeadlinePassed(job_id))
                assert watcher.ends
    assert flow.in_flight == 0
