"""A pool of empty files of different sizes, as the suite's derived adapters and ControlNets lie in their folders."""

from pathlib import Path

from loadgen.addons.plan import ADDONS, ADDONS_PLAN
from loadgen.addons.storage import NET_WEIGHTS, AddonPool, SimulatedStorage
from loadgen.addons.workload import AddonsWorkload, assign_names


def pool(folder: Path) -> AddonPool:
    made = AddonPool(folder / "adapters", folder / "controlnets")
    made.adapters.mkdir(parents=True)
    for number in range(ADDONS_PLAN.adapters):
        (made.adapters / f"adapter-{number:03d}.safetensors").write_bytes(b"0" * (100 * (1 + number % 4)))
    for number in range(ADDONS_PLAN.controlnets):
        place = made.controlnets / f"net-{number:02d}"
        place.mkdir(parents=True)
        (place / NET_WEIGHTS).write_bytes(b"0" * 1000)
    return made


def workload(seed: int = 0) -> AddonsWorkload:
    adapters = [f"adapter-{number:03d}" for number in range(ADDONS_PLAN.adapters)]
    nets = [f"net-{number:02d}" for number in range(ADDONS_PLAN.controlnets)]
    return AddonsWorkload(ADDONS, ADDONS_PLAN, assign_names(ADDONS_PLAN, adapters, nets, seed), seed)


def storage(folder: Path) -> SimulatedStorage:
    return SimulatedStorage(ADDONS_PLAN, pool(folder / "pool"), workload().plain_request, folder)
