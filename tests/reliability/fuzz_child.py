"""Reads damaged files for the fuzzers: lines `[reader, path]` in; `{value}`, `{error}`, `{defect}` out."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from anyshot.data.classes import ClassTable
from anyshot.data.image_pack import ImagePack
from anyshot.data.images import image_size, read_image, read_mask
from anyshot.data.manifest import Manifest
from anyshot.engine.checkpoints import load_state, load_weights
from anyshot.engine.label_maps import LabelMaps
from anyshot.engine.model_folder import read_card
from anyshot.engine.stores import Store
from anyshot.errors import AnyshotError
from anyshot.nets.mxnet_params import read_params
from anyshot.nets.weight_files import read_state

SECONDS = 10  # of CPU for one file; SIGPROF then ends the process
SPARE = 2 << 30  # bytes beyond what the imports take: a declared size of 10**12 is seen


def told(array: Any) -> list[Any]:
    """What two equal arrays have in common."""
    array = np.asarray(array)
    return [str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]


def score_store(path: Path) -> Any:
    store = Store(path)
    found: dict[str, Any] = {"attributes": store.attributes}
    for id in store.ids:
        one = store[id]
        extra = {name: told(store.extra(id, name)) for name in store.extra_names(id)}
        found[id] = [told(one.classes), told(one.scores), one.height, one.width, one.stride, extra]
    return found


def image_pack(folder: Path) -> Any:
    pack = ImagePack(folder)
    return [[told(pack.image(number)), pack.label(number)] for number in range(len(pack))]


def tensors(state: Any) -> Any:
    return {name: told(value.float().numpy()) for name, value in state.items()}


def model_folder(folder: Path) -> Any:
    read_card(folder)
    state, card = load_weights(folder / "model.safetensors")
    return [tensors(state), card]


def training_state(path: Path) -> Any:
    state = load_state(path, "f")
    return None if state is None else tensors(state["model"])


def manifest(path: Path) -> Any:
    read = Manifest.read(path)
    fields = [
        [one.id, str(one.image), one.mask and str(one.mask), one.subset, one.labels] for one in read.samples()
    ]
    assert len({one[0] for one in fields}) == len(fields)
    return fields


READERS: dict[str, Callable[[Path], Any]] = {
    "image": lambda path: [*told(read_image(path)), list(image_size(path))],
    "mask": lambda path: told(read_mask(path)),
    "store": score_store,
    "pack": image_pack,
    "label maps": lambda path: {id: told(mask) for maps in [LabelMaps(path)] for id, mask in
                                ((id, maps[id]) for id in maps)},
    "state": lambda path: tensors(read_state(path)),
    "model folder": model_folder,
    "training state": training_state,
    "params": lambda path: {name: told(array) for name, array in read_params(path).items()},
    "manifest": manifest,
    "classes": lambda path: ClassTable.read(path).to_json(),
}  # fmt: skip


def answer(reader: str, path: Path) -> dict[str, Any]:
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        return {"value": READERS[reader](path)}
    except AnyshotError as error:
        return {"error": str(error)}
    except Exception:
        return {"defect": traceback.format_exc()}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries may print
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + SPARE, in_use + SPARE))
    for line in sys.stdin:
        reader, path = json.loads(line)
        print(json.dumps(answer(reader, Path(path))), file=answers, flush=True)


if __name__ == "__main__":
    main()
