"""A training stage in two processes on the CPU, as Lightning Fabric starts them for two GPUs.

The stage is named by the variable STAGE, e.g. `simformer.joint`; everything else is its command line.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

from anyshot.engine import train
from anyshot.job import run

STAGE = os.environ["STAGE"]
SYSTEM, NAME = STAGE.split(".")
SCRIPT = Path(__file__).resolve().parents[1] / "workflow" / "scripts" / SYSTEM / f"{NAME}.py"
start_fabric = train.start_fabric


def on_two(device: Any, gpus: int, options: Any, devices: int | None) -> Any:
    fabric = start_fabric(device, gpus, options, 2)
    if fabric.world_size != 2:
        raise RuntimeError(f"a training on {fabric.world_size} device(s), not on two")
    return fabric


if __name__ == "__main__":
    train.start_fabric = on_two
    spec = importlib.util.spec_from_file_location(NAME, SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stages = importlib.import_module(f"anyshot.{SYSTEM}.system").STAGES
    run(STAGE, stages[NAME], module.main)
