"""The stage `joint` in two processes on the CPU, as Lightning Fabric starts them for two GPUs."""

import importlib.util
from pathlib import Path
from typing import Any

from anyshot.engine import train
from anyshot.job import run
from anyshot.simformer.options import Joint

SCRIPT = Path(__file__).resolve().parents[2] / "workflow" / "scripts" / "simformer" / "joint.py"
start_fabric = train.start_fabric


def on_two(device: Any, gpus: int, options: Any, devices: int | None) -> Any:
    return start_fabric(device, gpus, options, 2)


if __name__ == "__main__":
    train.start_fabric = on_two
    spec = importlib.util.spec_from_file_location("joint", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run("simformer.joint", Joint, module.main)
