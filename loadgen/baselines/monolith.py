"""The server that a competent user would run today: diffusers' pipeline behind FastAPI on Ray Serve.

``python -m loadgen.baselines.monolith --weights DIR --port N --replicas R --threads T`` runs until Ctrl-C.
Every replica holds the whole pipeline and makes one image after the other, first come, first served, behind Serve's
own HTTP proxy.  Ray is private to this process and lives in a temporary folder of its own.
"""

import argparse
import logging
import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

# Measured with two replicas under load: 1 leaves replicas idle a third of the time (the proxy polls them only every
# so often), 2 costs 7 %; from 3 on none is idle.  A replica runs its requests in their order in any case.
MAX_ONGOING_REQUESTS = 1000
OBJECT_STORE_BYTES = 128 * 2**20
RAY_CPUS = 8  # slots for actors; the cores that this process is pinned to limit the work


def main() -> None:
    """Serve until a signal, then remove the temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--max-sequence-length", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--replicas", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True, help="Threads of torch in each replica.")
    parser.add_argument("--compile", action="store_true", help="torch.compile the transformer.")
    parser.add_argument(
        "--workflows", default="", help="Names, with commas: an application each, the first at /, the others at /NAME."
    )
    parser.add_argument("--edits", action="store_true", help="diffusers' inpainting in place of text to image.")
    parser.add_argument(
        "--addons", type=Path, help="JSON: where adapters and ControlNets lie, and how many bytes are kept."
    )
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mono-", dir="/tmp"))  # Ray's socket paths must stay short
    os.environ.update(_environment(arguments.threads, folder))
    try:
        _serve(arguments, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(threads: int, folder: Path) -> dict[str, str]:
    """Return the variables for every process of this Ray; threads wait passively, so that idle ones free the cores."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),  # removed at the end: every run compiles anew
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }


def _serve(arguments: argparse.Namespace, folder: Path) -> None:
    import ray
    from ray import serve

    from loadgen.baselines.monolith_app import APP

    ray.init(
        address="local",
        _temp_dir=str(folder),
        include_dashboard=False,
        num_cpus=RAY_CPUS,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
    )
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # after Ray, which sets handlers of its own
        signal.signal(number, lambda *_: stopping.set())
    try:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(
            http_options={"host": "127.0.0.1", "port": arguments.port},
            logging_config={"enable_access_log": False, "log_level": "WARNING"},
        )
        names = [APP, *(f"{APP}-{name}" for name in arguments.workflows.split(",")[1:])]
        routes = ["/", *(f"/{name}" for name in arguments.workflows.split(",")[1:])]
        targets = [
            serve.RunTarget(_application(arguments), name=name, route_prefix=route)
            for name, route in zip(names, routes, strict=True)
        ]
        serve.run_many(targets)
        stopping.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


def _application(arguments: argparse.Namespace) -> Any:
    from ray import serve

    from loadgen.baselines.monolith_app import Monolith

    deployment = serve.deployment(
        Monolith,
        num_replicas=arguments.replicas,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        max_queued_requests=-1,  # nothing is rejected
        ray_actor_options={"num_cpus": 1},
    )
    return deployment.bind(
        str(arguments.weights.absolute()),
        arguments.max_sequence_length,
        arguments.threads,
        arguments.compile,
        None if arguments.addons is None else str(arguments.addons.absolute()),
        arguments.edits,
    )


if __name__ == "__main__":
    main()
