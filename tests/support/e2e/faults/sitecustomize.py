"""Read by every process of a server under test: a lane with a certain guidance ends its replica's process.

It stands for a request that crashes a kernel: no exception, no word, always in the same step.  So do a prompt with a
certain word, for the text encoder, and an image of a certain size, for the VAE.  And every step that a lane begins is
written down as it begins, which a replica that is killed cannot do afterwards; so is every such end.
"""

import asyncio
import dataclasses
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

DEADLY_GUIDANCE = 6.66
DEADLY_TIME = 0.7
DEADLY_WORD = "basilisk"
DEADLY_SIZE = (240, 112)  # width and height
LATENT_PIXEL = 8
HOLD_READS = "LEGO_TEST_HOLD_READS"  # names a file: while it exists, lanes do not read their inputs
SCALE_TIMES = "LEGO_TEST_SCALE_TIMES"  # seconds until more replicas are due, and fewer; the half-life of load
STEPS_LOG = "LEGO_TEST_STEPS_LOG"  # the variable that names the file: a line `seed step` for each step begun
DEATHS_END = ".deaths"  # of the name of the file beside it: a line for each replica that a request has ended


def die() -> None:
    """End this process as a crash does, and leave a line of it where a file is named."""
    if (path := os.environ.get(STEPS_LOG)) is not None:
        with open(path + DEATHS_END, "a") as file:
            file.write(f"{os.getpid()}\n")
    os._exit(1)


def poison(module: ModuleType) -> None:
    """Wrap the family's forward pass."""
    velocity_rows = module.Sd3Backbone.velocity_rows

    def deadly(backbone, lanes):
        if any(lane.guidance == DEADLY_GUIDANCE and lane.time < DEADLY_TIME for lane in lanes):
            die()
        return velocity_rows(backbone, lanes)

    module.Sd3Backbone.velocity_rows = deadly


def poison_decodes(module: ModuleType) -> None:
    """Wrap the VAE's answers."""
    reply = module.VaeNode._reply

    def deadly(node, request):
        latents = (*request.latents.latents.shape[-2:],) if type(request).__name__ == "DecodeInput" else ()
        if latents == (DEADLY_SIZE[1] // LATENT_PIXEL, DEADLY_SIZE[0] // LATENT_PIXEL):
            die()
        return reply(node, request)

    module.VaeNode._reply = deadly


def poison_prompts(module: ModuleType) -> None:
    """Wrap the text encoder's passes."""
    encode = module.TextEncoderNode._encode

    def deadly(node, prompts):
        if any(DEADLY_WORD in prompt.text for prompt in prompts):
            die()
        return encode(node, prompts)

    module.TextEncoderNode._encode = deadly


def note_steps(module: ModuleType) -> None:
    """Wrap the engine's step, where a file is named."""
    path = os.environ.get(STEPS_LOG)
    if path is None:
        return
    forward = module.BatchRunner._forward
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def noted(runner, states):
        lines = (f"{state.request.seed} {state.skipped + state.step}\n" for state in states)
        os.write(file, "".join(lines).encode())  # in one call: the lines of two replicas do not mix
        return forward(runner, states)

    module.BatchRunner._forward = noted


def hold_reads(module: ModuleType) -> None:
    """Have every array travel as a reference, and lanes not read theirs while the file that is named exists."""
    path = os.environ.get(HOLD_READS)
    if path is None:
        return
    read_arrays = module.read_arrays
    module.keep_arrays.__defaults__ = (1,)  # bytes

    async def held(call):
        while type(call.request).__name__ == "DenoiseInput" and os.path.exists(path):
            await asyncio.sleep(0.05)
        return await read_arrays(call)

    module.read_arrays = held


def hasten_scaling(module: ModuleType) -> None:
    """Have Serve's controller decide on numbers of replicas after other times than the minutes that it waits for."""
    times = os.environ.get(SCALE_TIMES)
    if times is None:
        return
    up_s, down_s, half_life_s = map(float, times.split(","))
    kept = {"up_delay_s": up_s, "down_delay_s": down_s, "half_life_s": half_life_s}
    module.RULE = dataclasses.replace(module.RULE, **kept)


WRAPPERS: dict[str, Callable[[ModuleType], None]] = {
    "lego_serve.models.families.sd3": poison,
    "lego_serve.serving.nodes.vae": poison_decodes,
    "lego_serve.serving.nodes.text_encoder": poison_prompts,
    "lego_serve.engine.step.batch_runner": note_steps,
    "lego_serve.serving.cluster.references": hold_reads,
    "lego_serve.core.placement.replica_scaler": hasten_scaling,
}


class Faults(importlib.abc.MetaPathFinder):
    """Wraps what it knows of when it is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's own spec, its loader wrapped."""
        wrap = WRAPPERS.pop(name, None)
        if wrap is None:
            return None
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        plain = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            plain(module)
            wrap(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Faults())
