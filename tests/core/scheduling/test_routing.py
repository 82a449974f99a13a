"""Routing: which replica a call goes to."""

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.addons import AdapterRequest, LoadedAdapter
from lego_serve.core.editing.edit import EditLatents
from lego_serve.core.editing.reuse import Quality
from lego_serve.core.editing.templates import entries_label
from lego_serve.core.nodes.messages import DenoiseInput, EncodeEditOutput, LoadAdaptersOutput, TextEncodeOutput
from lego_serve.core.scheduling.routing import (
    HINT_S,
    HINTS,
    CallHints,
    Outstanding,
    ReplicaChoice,
    Residency,
    denoising_work,
    entries_read,
    exclude,
    priming_by_replica,
    priming_work,
    quarantine,
)


def test_a_call_keeps_away_from_replicas_unless_there_are_no_others() -> None:
    """Avoiding every one avoids none."""
    assert exclude(["a", "b"], {"a"}) == ["b"]
    assert exclude(["a", "b"], {"a", "b"}) == ["a", "b"]


def test_suspects_share_one_replica() -> None:
    """The first by id, for all of them."""
    assert quarantine(["b", "a"], True) == ["a"]
    assert quarantine(["b", "a"], False) == ["b", "a"]


NOTHING = TextEncodeOutput(None, None)  # type: ignore[arg-type]
PLAIN = DenoiseInput(NOTHING, 128, 96, steps=20, guidance=1.0, seed=0, n=2, negative=NOTHING)


def test_work_is_pixels_times_passes() -> None:
    """Guidance doubles it where there is a negative prompt; images add up, and a tier is a part of it."""
    assert denoising_work(PLAIN) == 128 * 96 * 20 * 2
    assert denoising_work(replace(PLAIN, guidance=4.0)) == 2 * denoising_work(PLAIN)
    assert denoising_work(replace(PLAIN, negative=None, guidance=4.0)) == denoising_work(PLAIN)
    assert denoising_work(replace(PLAIN, work_share=0.25)) == denoising_work(PLAIN) / 4


def test_work_is_a_number_whatever_a_workflow_lets_through() -> None:
    """A whole number without bounds may be past every float."""
    for name in ("n", "width", "height", "steps", "seed"):
        assert denoising_work(replace(PLAIN, **{name: 10**400})) >= 96
    assert priming_work(replace(edit(0.25), n=10**400)) > 0


def test_the_least_loaded_replicas_are_found() -> None:
    """By work, not by count; a call that moved counts where it is, and one that ended nowhere."""
    hand = Outstanding()
    hand.place("large", "a", 10.0)
    hand.place("small", "b", 1.0)
    hand.place("other", "b", 1.0)
    assert hand.least(["a", "b"]) == ["b"]
    assert hand.least(["a", "b", "c"]) == ["c"]
    hand.place("large", "b", 10.0)
    assert hand.least(["a", "b"]) == ["a"]
    hand.end("large")
    hand.end("never placed")
    assert (hand.of("a"), hand.of("b")) == (0, 2)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.1, 9)), max_size=30))
def test_placing_on_the_least_loaded_keeps_them_within_one_call(calls: list[tuple[str, float]]) -> None:
    """Without ends, no replica is ahead of another by more than the largest call."""
    hand = Outstanding()
    for number, (_, work) in enumerate(calls):
        hand.place(str(number), hand.least(["a", "b", "c"])[0], work)
    loads = [hand.of(replica) for replica in "abc"]
    assert max(loads) - min(loads) <= max((work for _, work in calls), default=0) + 1e-9


def edit(ratio: float, *, is_described: bool = False) -> DenoiseInput:
    """An edit that computes such a part of its image."""
    latents = EditLatents(None, None, Quality.HIGH, "t", ratio, is_described=is_described)
    return DenoiseInput(
        NOTHING, 128, 128, steps=10, guidance=4.0, seed=0, n=1, negative=NOTHING, edit=EncodeEditOutput(latents)
    )


def test_an_edit_weighs_what_it_computes_and_priming_a_branch_of_everything() -> None:
    """A tenth of the image is a tenth of the work; one that computes all of it reads nothing and primes nothing."""
    whole = denoising_work(edit(1.0))
    assert denoising_work(edit(0.1)) == whole / 10
    assert priming_work(edit(0.1)) == whole / 2
    assert priming_work(replace(edit(0.1), n=2)) == whole / 2
    told = replace(edit(0.1), negative=None)
    assert priming_work(told) == whole / 2 == 10 * denoising_work(told)
    assert priming_work(edit(0.1, is_described=True)) == whole  # its branches are primed by different words
    assert priming_work(edit(1.0)) == priming_work(PLAIN) == 0


def test_an_edit_goes_where_its_template_is_until_that_takes_longer_than_priming_it_elsewhere() -> None:
    """So a hot template spreads, and a cold one stays where it is."""
    hand, where = Outstanding(), Residency()
    call = edit(0.1)
    places = []
    for number in range(12):
        besides = priming_by_replica(call, {"a": ("t",), "b": ()}, where, float(number))
        place = hand.least(["a", "b"], besides)[0]
        hand.place(str(number), place, denoising_work(call) + besides[place])
        where.record_sent(place, "t", float(number))
        places.append(place)
    assert places[:5] == ["a"] * 5
    assert places.count("b") >= 3
    assert "b" in places[5:7]
    for number in range(12):
        hand.end(str(number))
    assert priming_by_replica(call, {"a": (), "b": ()}, where, 12.0 + HINT_S) == dict.fromkeys("ab", priming_work(call))
    assert priming_by_replica(edit(1.0), {"a": (), "b": ()}, where, 12.0) == {}


def test_a_template_is_where_its_replica_says_or_where_a_call_for_it_went_lately() -> None:
    """What replicas say comes late, and what was sent is not remembered for ever."""
    where = Residency()
    assert where.has("a", "t", ("t",), 0.0)
    assert not where.has("a", "t", (), 0.0)
    where.record_sent("a", "t", 0.0)
    assert where.has("a", "t", (), HINT_S - 1)
    assert not where.has("a", "t", (), HINT_S)
    assert not where.has("b", "t", (), 1.0)
    for number in range(HINTS):
        where.record_sent("b", str(number), 1.0)
    assert not where.has("a", "t", (), 1.0)


def adapted(*uses: tuple[str, float, float, float], denoiser: bool = True) -> DenoiseInput:
    """An edit with adapters: hash, scale, and from and up to which part of the steps."""
    loaded = tuple(
        LoadedAdapter(AdapterRequest(sha, scale, start, end), sha, 1, has_text=True, has_denoiser=denoiser)
        for sha, scale, start, end in uses
    )
    return replace(edit(0.1), adapters=LoadAdaptersOutput(loaded))


ONE, TWO = ("1", 0.5, 0.0, 1.0), ("2", 1.0, 0.0, 1.0)


def test_an_edit_with_adapters_goes_where_they_primed_its_template() -> None:
    """What is there without them, or with others, or as strongly in another scale, is of no use to it."""
    where, both = Residency(), entries_label("t", [("1", 0.5), ("2", 1.0)])
    reported = {"plain": ("t",), "one": ("t", entries_label("t", [("1", 0.5)])), "both": (both,), "none": ()}
    priming = priming_work(adapted(ONE))
    for inputs, places in (
        (edit(0.1), {"plain", "one"}),
        (adapted(), {"plain", "one"}),
        (adapted(ONE), {"one"}),
        (adapted(ONE, TWO), {"both"}),
        (adapted(TWO, ONE), {"both"}),
        (adapted(("1", 0.6, 0.0, 1.0)), set()),
        (adapted(("1", 0.0, 0.0, 1.0)), {"plain", "one"}),
        (adapted(ONE, denoiser=False), {"plain", "one"}),
    ):
        besides = priming_by_replica(inputs, reported, where, 0.0)
        assert besides == {replica: 0.0 if replica in places else priming for replica in reported}, inputs


def test_adapters_whose_files_are_still_being_read_share_no_entries() -> None:
    """They have no hash yet: of two names, or two versions of a file, none is taken for the other."""

    def unread(name: str, *version: int) -> DenoiseInput:
        loaded = LoadedAdapter(AdapterRequest(name), "", 0, has_text=False, version=version)
        return replace(edit(0.1), adapters=LoadAdaptersOutput((loaded,)))

    read = [entries_read(unread(name, *version)).keys() for name, *version in (("a", 1), ("b", 1), ("a", 2))]
    assert len({label for labels in read for label in labels}) == 3


def test_an_adapter_of_some_steps_reads_what_it_primed_in_those_alone() -> None:
    """A replica that has the one and not the other saves a part; steps that strength leaves out read nothing."""
    late, mine = adapted(("1", 0.5, 0.75, 1.0)), entries_label("t", [("1", 0.5)])
    assert entries_read(late) == {"t": 0.75, mine: 0.25}
    besides = priming_by_replica(late, {"a": ("t",), "b": (mine,), "c": ("t", mine), "d": ()}, Residency(), 0.0)
    parts = {"a": 0.25, "b": 0.75, "c": 0, "d": 1}
    assert besides == {replica: part * priming_work(late) for replica, part in parts.items()}
    assert entries_read(replace(late, strength=0.5)) == {"t": 0.5, mine: 0.5}
    assert entries_read(replace(late, strength=0.25)) == {mine: 1.0}
    assert entries_read(replace(late, strength=1e-300)) == {mine: 1.0}
    assert entries_read(edit(1.0)) == entries_read(PLAIN) == {}


windows = st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda pair: pair[0] < pair[1])


@given(st.lists(windows, max_size=4), st.floats(0, 1))
def test_the_parts_of_what_is_read_are_all_of_it(parts: list[tuple[float, float]], strength: float) -> None:
    """Whatever the adapters' steps; so no replica is taken to save more than a priming takes."""
    uses = [(str(number), 1.0, start, end) for number, (start, end) in enumerate(parts)]
    read = entries_read(replace(adapted(*uses), strength=strength))
    assert abs(sum(read.values()) - 1) < 1e-6
    assert min(read.values()) >= 0


def test_a_denoising_call_goes_to_the_replica_expected_to_end_it_first() -> None:
    """It is placed there, and the others follow in case that one is full."""
    choice, rng, templates = ReplicaChoice(), Random(0), dict.fromkeys("abc", ())
    first = choice.ranked(CallHints(PLAIN, "one"), templates, 0.0, rng)
    second = choice.ranked(CallHints(PLAIN, "two"), templates, 0.0, rng)
    assert [len(group) for group in first] == [1, 2]
    assert sorted(replica for group in first for replica in group) == ["a", "b", "c"]
    assert second[0] != first[0]
    assert choice.outstanding.of(first[0][0]) == denoising_work(PLAIN)


def test_any_other_call_is_offered_to_two_at_random() -> None:
    """None of them is placed: such calls are short."""
    choice = ReplicaChoice()
    [offered] = choice.ranked(CallHints(), dict.fromkeys("abcd", ()), 0.0, Random(0))
    assert len(set(offered)) == 2
    assert choice.ranked(CallHints(), {}, 0.0, Random(0)) == [[]]


@given(
    st.sets(st.sampled_from("abcd"), min_size=1),
    st.sets(st.sampled_from("abcd")),
    st.sets(st.sampled_from("abcd")),
    st.booleans(),
    st.integers(0, 99),
)
def test_the_same_seed_chooses_the_same_replica_and_never_one_to_keep_away_from(
    replicas: set[str], avoid: set[str], draining: set[str], is_suspect: bool, seed: int
) -> None:
    """Unless there is no other; suspects all go to one."""

    def ranked() -> list[list[str]]:
        choice = ReplicaChoice()
        choice.draining |= draining
        hints = CallHints(PLAIN, "key", frozenset(avoid), is_suspect)
        return choice.ranked(hints, dict.fromkeys(sorted(replicas), ()), 0.0, Random(seed))

    groups = ranked()
    assert groups == ranked()
    named = {replica for group in groups for replica in group}
    allowed = replicas - avoid - draining or replicas
    assert named == ({min(allowed)} if is_suspect else allowed)


def test_a_placed_call_goes_where_it_was_placed_while_that_is_there() -> None:
    """Then the others; where it is gone, to be avoided, or hung, it is routed as any call."""
    choice, ids = ReplicaChoice(), dict.fromkeys(("a", "b", "c"), ())
    placed = CallHints(target="b", node="m.vae")
    assert choice.ranked(placed, ids, 0.0, Random(0))[0] == ["b"]
    assert sorted(choice.ranked(placed, ids, 0.0, Random(0))[1]) == ["a", "c"]
    gone = choice.ranked(replace(placed, target="z"), ids, 0.0, Random(0))
    assert len(gone[0]) == 2
    avoided = choice.ranked(replace(placed, avoid=frozenset({"b"})), ids, 0.0, Random(0))
    assert "b" not in avoided[0]
    choice.hung.add("b")
    assert "b" not in choice.ranked(placed, ids, 0.0, Random(0))[0]
    choice.forget(["b"])
    denoising = replace(placed, denoise=PLAIN, key="call")
    choice.ranked(denoising, ids, 0.0, Random(0))
    assert choice.outstanding.of("b") == denoising_work(PLAIN)


def test_calls_to_shared_workers_go_to_those_that_hold_their_node() -> None:
    """And anywhere where nobody does."""
    choice, ids = ReplicaChoice(), dict.fromkeys(("a", "b", "c"), ())
    resident = {"a": ("m.vae",), "b": ("n.vae",), "c": ("m.vae", "n.vae")}
    for seed in range(10):
        [group] = choice.ranked(CallHints(node="m.vae"), ids, 0.0, Random(seed), resident)
        assert set(group) == {"a", "c"}
        [group] = choice.ranked(CallHints(node="o.vae"), ids, 0.0, Random(seed), resident)
        assert set(group) <= set(ids)
