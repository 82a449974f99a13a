"""Fixed groups of GPUs, sized by known load, after Shepherd (NSDI '23) as DiFlow's artifact sets it up."""

from collections.abc import Mapping

from lego_serve.sim.cluster import Setting
from lego_serve.sim.policies.static import Static


def groups(setting: Setting, shares: Mapping[str, float]) -> dict[str, list[int]]:
    """Divide the GPUs by load: each workflow a group, or each backbone where GPUs are too few for that."""
    by_backbone = setting.gpus < len(setting.workflows)
    load: dict[str, float] = {}
    key = {name: shape.backbone if by_backbone else name for name, shape in setting.workflows.items()}
    for name in setting.workflows:
        load[key[name]] = load.get(key[name], 0.0) + shares.get(name, 0.0) * setting.work(name).solo_s
    count = dict.fromkeys(load, 1)
    while sum(count.values()) < setting.gpus:
        neediest = max(sorted(load), key=lambda each: load[each] / count[each])
        count[neediest] += 1
    placed: dict[str, list[int]] = {}
    free = iter(range(setting.gpus))
    for name, number in count.items():
        placed[name] = [next(free) for _ in range(number)]
    return {name: placed[key[name]] for name in setting.workflows if placed[key[name]]}


def shepherd(setting: Setting, shares: Mapping[str, float]) -> Static:
    """The groups, dropping what cannot end in time."""
    return Static(groups(setting, shares), drops_hopeless=True)
