"""Does a replica's work up to ready in this process: ``python -m benchmarks.replica_start CONFIG COMPONENT [SHARED]``.

Prints the processor seconds of each stage as JSON.  Imports of its own would count in the first stage, so there are
next to none.  ``SHARED`` is a module that is imported first, as the process does from which replicas are forked.
"""

import json
import sys
import tempfile
import time
from importlib import import_module
from itertools import pairwise
from pathlib import Path

STAGES = ("Python", "shared", "Ray", "torch", "node modules", "component", "node")


def start_replica(config: Path, component: str, shared: str | None) -> dict[str, float]:
    """Start one replica of a component; answers the processor seconds of each stage.

    ``component`` imports what loading takes and loads the weights; ``node`` is the rest of the node's constructor,
    which loads them again, without imports, and measures what a step costs here.
    """
    marks = [0.0, time.process_time()]

    def end_stage() -> None:
        marks.append(time.process_time() - skipped)

    skipped = 0.0
    if shared is not None:
        import_module(shared)
    end_stage()
    replica = import_module("lego_serve.serving.cluster.replica")
    end_stage()
    import_module("torch")
    end_stage()
    for node in ("backbone", "lora", "text_encoder", "vae"):
        import_module(f"lego_serve.serving.nodes.{node}")
    end_stage()
    with tempfile.TemporaryDirectory() as state:
        before = time.process_time()  # a replica is handed its plan
        node_plans = import_module("lego_serve.planning.node_plans")
        configured = import_module("lego_serve.served_workflows").configured
        plans = node_plans.node_plans(*configured(config), Path(state))
        plan = next(plan for plan in plans if plan.component == component)
        skipped = time.process_time() - before
        load = getattr(import_module("lego_serve.models.loading"), f"load_{component}", None)
        if load is not None:
            load(plan.spec)
        end_stage()
        replica.make_node(plan.spec, plan.options)
        end_stage()
    seconds = (after - earlier for earlier, after in pairwise(marks))
    return dict(zip(STAGES, seconds, strict=True))


if __name__ == "__main__":
    print(json.dumps(start_replica(Path(sys.argv[1]), sys.argv[2], sys.argv[3] if sys.argv[3:] else None)))
