"""Read by every process of a server under test: a lane with a certain guidance ends its replica's process.

It stands for a request that crashes a kernel: no exception, no word, always in the same step.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType

MODULE = "lego_serve.models.families.sd3"
DEADLY_GUIDANCE = 6.66
DEADLY_TIME = 0.7


class Poisoner(importlib.abc.MetaPathFinder):
    """Wraps the family's forward pass when it is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's own spec, its loader wrapped."""
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        plain = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            plain(module)
            velocity = module.Sd3Backbone.velocity

            def deadly(backbone, lanes):
                if any(lane.guidance == DEADLY_GUIDANCE and lane.time < DEADLY_TIME for lane in lanes):
                    os._exit(1)
                return velocity(backbone, lanes)

            module.Sd3Backbone.velocity = deadly

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Poisoner())
