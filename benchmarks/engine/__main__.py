"""What a step costs, without Ray: ``python -m benchmarks.engine COMMAND``, or ``--gpu``.

The latter is all that a GPU is wanted for.  It takes torch, triton, numpy, safetensors, diffusers and transformers
alone, from a plain checkout.
"""

import sys

from benchmarks.engine.compute.gpu_command import run_on_gpu


def main() -> None:
    """Run what the command line says."""
    if sys.argv[1:2] == ["--gpu"]:
        sys.exit(run_on_gpu(sys.argv[2:]))
    from benchmarks.engine.commands import app

    app()


if __name__ == "__main__":
    main()
