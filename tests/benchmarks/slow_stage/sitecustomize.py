"""Makes the stage `source` sleep `CUEPACK_BENCH_SLEEP_S` in every process that has this folder on its path.

Python imports a module of this name at its start; the benchmark `distribution` puts the folder on PYTHONPATH, so that
processes of any engine have a stage that takes long and no CPU. The product does not know of it.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import time
from dataclasses import replace


class _Slowed(importlib.abc.MetaPathFinder):
    """Finds `flows.stages` as Python does, and changes its table once it is imported."""

    def find_spec(self, name, path, target=None):
        if name != "flows.stages":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        as_written = spec.loader.exec_module

        def execute(module):
            as_written(module)
            module.STAGES = tuple(_slow(stage) if stage.name == "source" else stage for stage in module.STAGES)

        spec.loader.exec_module = execute
        return spec


def _slow(stage):
    def run(inputs):
        time.sleep(float(os.environ["CUEPACK_BENCH_SLEEP_S"]))
        return stage.run(inputs)

    return replace(stage, run=run)


if "CUEPACK_BENCH_SLEEP_S" in os.environ:
    sys.meta_path.insert(0, _Slowed())
