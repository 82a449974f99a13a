"""How wide a job runs: its guidance branches paired on one worker, split over two, or in a batch with other jobs.

Pairing saves GPU time, splitting saves latency, a batch saves GPU time at the price of latency.  A split is worth it
while workers are idle and it costs little, or when a deadline needs it; a batch where it saves enough and nobody in it
becomes late.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lego_serve.core.cluster.state import Lane
from lego_serve.core.cluster.work import JobWork, batch_step_s


@dataclass(frozen=True, slots=True)
class ParallelRule:
    """The thresholds; the defaults are those of the tables in docs/benchmarks/cluster.md."""

    splits: bool = True
    batches: bool = True
    pairs: bool = True
    quantum_s: float = 0.2  # a call takes about so long, so that the urgent need not wait for longer
    min_speed_up: float = 1.3  # of a split over a pair
    cheap_speed_up: float = 1.85  # from which a split costs so little that any idle worker may help
    min_saving: float = 0.05  # of the GPU seconds, for a batch; less is not worth the slack that a batch uses up
    max_rows: int = 16
    spare: float = 0.85  # below this load a job is admitted on two workers if it would be late on one
    padding_s: float = 0.0


def split_reason(rule: ParallelRule, lane: Lane, idle: int, workers: int, now: float) -> str | None:
    """Say why a lane's step should be split over two workers, of which ``idle`` have nothing else to do; or None."""
    work = lane.job.work
    if not rule.splits or idle < 1 or work.shape.branches < 2:
        return None
    speed_up = work.step_s / work.split_step_s
    if speed_up <= 1.0:
        return None
    if now + lane.left_s > lane.job.deadline_s - rule.padding_s:
        return "its deadline needs two workers"
    if not speed_up_suffices(rule, speed_up, idle=idle, workers=workers):
        return None
    return "a worker is idle" if speed_up >= rule.cheap_speed_up else "half of the workers are idle"


def speed_up_suffices(rule: ParallelRule, speed_up: float, *, idle: int, workers: int) -> bool:
    """Whether a step that is so many times faster on two workers is worth the second, of ``idle`` ones."""
    return speed_up >= rule.cheap_speed_up or (speed_up >= rule.min_speed_up and 2 * idle >= workers)


def may_be_split(rule: ParallelRule, work: JobWork) -> bool:
    """Whether a job can win enough by a second worker to be admitted on two."""
    return rule.splits and work.shape.branches > 1 and work.step_s >= rule.min_speed_up * work.split_step_s


def may_join(rule: ParallelRule, batch: Sequence[Lane], lane: Lane, now: float) -> bool:
    """Whether a lane should run in one batch with others: enough is saved and nobody becomes late."""
    if not rule.batches or lane.job.work.shape.backbone != batch[0].job.work.shape.backbone:
        return False
    together = [*batch, lane]
    if sum(each.job.work.shape.branches for each in together) > rule.max_rows:
        return False
    works = [each.job.work for each in together]
    apart_s = batch_step_s(works[:-1]) + works[-1].step_s
    if batch_step_s(works) > (1.0 - rule.min_saving) * apart_s:
        return False
    return all(now + _in_batch_s(together, each) <= each.job.deadline_s - rule.padding_s for each in together)


def _in_batch_s(batch: Sequence[Lane], lane: Lane) -> float:
    """The seconds until a lane ends in a batch that stays as it is until then."""
    ahead = [each for each in batch if each.steps_left <= lane.steps_left]
    encode_s = sum(each.job.work.encode_s for each in batch if not each.is_encoded)
    decode_s = sum(each.job.work.decode_s for each in ahead)
    return encode_s + lane.steps_left * batch_step_s([each.job.work for each in batch]) + decode_s


def steps_of(rule: ParallelRule, lanes: Sequence[Lane], step_s: float) -> int:
    """How many steps a call takes: about a quantum, and not beyond the first lane that ends."""
    return max(1, min(min(lane.steps_left for lane in lanes), int(rule.quantum_s / step_s)))
