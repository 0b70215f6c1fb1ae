"""How often the ImageNet classifier, used as a segmenter without training, finds what a picture shows.

    python benchmarks/imagenet_head.py FOLDER > benchmarks/results/imagenet_head.json

The folder has one folder per wnid. A picture has one label and no mask, so what is counted is the share of
the pictures in which the labelled class has any pixel, how much of the picture it then has, and whether it is
the largest. All 1,000 classes compete at every pixel.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measuring import use_threads
from tqdm import tqdm

from anyshot.cli import main as anyshot
from anyshot.data.images import read_image
from anyshot.larvseg.segmenter import VocabularySegmenter, load_segmenter


def shares(
    model: VocabularySegmenter, images: list[tuple[int, Path]]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Of each image, the share of its pixels that its class has and whether no class has more; seconds."""
    own, largest, begin = [], [], time.perf_counter()
    for row, path in tqdm(images, disable=not sys.stderr.isatty()):
        ((labels, _),) = model.predict([read_image(path)], scores=False)
        counts = np.bincount(labels.reshape(-1), minlength=len(model.table))
        own.append(counts[row] / counts.sum())
        largest.append(counts[row] == counts.max())
    return np.asarray(own), np.asarray(largest), time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="one folder per wnid")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--short-side", type=int, default=224, help="px that pictures are fitted to")
    parser.add_argument("--small", action="store_true", help="every 50th class")
    given = parser.parse_args()
    use_threads(given.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        anyshot(["imagenet-head", folder, "--short-side", str(given.short_side)])
        model = load_segmenter(Path(folder), "cpu")
    wnids = sorted(path.name for path in given.folder.iterdir() if path.is_dir())
    rows = model.ids_of(wnids)  # refuses a wnid that the vocabulary lacks
    images = [
        (row, path)
        for row, wnid in list(zip(rows, wnids, strict=True))[:: 50 if given.small else 1]
        for path in sorted((given.folder / wnid).iterdir())
    ]
    own, largest, seconds = shares(model, images)
    found = own > 0
    print(
        json.dumps(
            {
                "benchmark": "imagenet_head",
                "command": " ".join(sys.argv),
                "classes": len(wnids),
                "pictures": len(images),
                "short_side": given.short_side,
                "found": float(found.mean()),
                "share_where_found": float(own[found].mean()) if found.any() else None,
                "largest": float(largest.mean()),
                "seconds_per_picture": seconds / len(images),
                "threads": given.threads,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
