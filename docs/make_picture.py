"""Draw the README's picture from a finished demo: what each stage makes of images with novel classes.

python docs/make_picture.py results scenes fold0 docs/images/demo.jpg
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from anyshot.data.classes import ClassTable
from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import Manifest, Sample
from anyshot.engine.label_maps import LabelMaps
from anyshot.engine.stores import Store
from anyshot.retab.evaluation import full_scores, label_map
from anyshot.retab.samples import read_supervision, read_table

SIDE, GAP, HEAD = 160, 4, 18  # px


def coloured(ids: np.ndarray, image: np.ndarray, table: ClassTable) -> np.ndarray:
    """Classes over the darkened photograph, void in white, background left dark."""
    out = (image * 0.35).astype(np.uint8)
    for class_id, colour in zip(table.ids[1:], table.colours[1:], strict=True):
        out[ids == class_id] = 0.25 * image[ids == class_id] + 0.75 * np.array(colour)
    out[ids == table.ignore] = 255
    return out


def heat(scores: np.ndarray, image: np.ndarray) -> np.ndarray:
    strongest = scores.max(axis=0) if len(scores) else np.zeros(image.shape[:2])
    colours = cv2.cvtColor(
        cv2.applyColorMap(np.uint8(255 * strongest), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB
    )
    return (0.4 * image + 0.6 * colours).astype(np.uint8)


def best(path: Path, column: str, ids: set[str], count: int) -> list[str]:
    """Ids spread over the better half of the images by their score."""
    with path.open() as file:
        scored = [(float(row[column]), row["id"]) for row in csv.DictReader(file) if row["id"] in ids]
    half = sorted(scored, reverse=True)[: max(count, len(scored) // 2)]
    return [half[i * (len(half) - 1) // max(1, count - 1)][1] for i in range(count)]


def strip(pictures: list[tuple[str, np.ndarray]]) -> np.ndarray:
    """Pictures side by side, each under its title."""
    tiles = []
    for title, picture in pictures:
        tile = Image.new("RGB", (SIDE, SIDE + HEAD), "white")
        tile.paste(Image.fromarray(picture).resize((SIDE, SIDE)), (0, HEAD))
        ImageDraw.Draw(tile).text((2, 3), title, fill="black")
        tiles += [np.asarray(tile), np.full((SIDE + HEAD, GAP, 3), 255, np.uint8)]
    return np.concatenate(tiles[:-1], axis=1)


def main(results: Path, data: str, split: str, output: Path) -> None:
    folder = results / "data" / data
    table, manifest = read_table(folder / "classes.csv"), Manifest.read(folder / "manifest.csv")
    base = results / "retab" / split
    novel = set(read_supervision(base / "split" / "samples.csv").novel)
    cams = Store(sorted((results / "retab/shared/cam").glob("*.h5")))
    walks = {
        "PSA walk": Store(sorted((results / "retab/shared/random_walk/psa").glob("*.h5"))),
        "RETAB walk": Store(sorted((base / "random_walk/retab").glob("*.h5"))),
    }
    predictions = LabelMaps(sorted((base / "predict").glob("*/labels.csv")))

    def truth(sample: Sample, image: np.ndarray) -> tuple[str, np.ndarray]:
        assert sample.mask is not None
        return "truth", coloured(read_mask(sample.mask), image, table)

    rows = []
    trained = best(base / "score_maps/images.csv", "retab_walk", novel, 4)
    unseen = best(base / "evaluate/images.csv", "segmentation", set(predictions.ids), 4)
    for first, second in zip(trained, unseen, strict=True):
        sample, image = manifest.by_id(first), read_image(manifest.by_id(first).image)
        row = [("image labels only", image), ("CAM", heat(full_scores(cams[first]), image))]
        for name, store in walks.items():
            row.append((name, coloured(label_map(store[first], background=table.ids[0]), image, table)))
        row.append(truth(sample, image))
        sample, image = manifest.by_id(second), read_image(manifest.by_id(second).image)
        row += [("unseen image", image), ("segmenter", coloured(predictions[second], image, table))]
        rows.append(strip([*row, truth(sample, image)]))
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(output, quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
