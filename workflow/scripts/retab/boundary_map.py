"""Where the boundary network sees contours, for every training image; no mask is read (retab.md 2.7)."""

import cv2
import numpy as np
import torch

from anyshot.data.images import read_image
from anyshot.data.transforms import normalise
from anyshot.engine.stores import StoreWriter
from anyshot.job import Job, run
from anyshot.retab.networks import upsample_boundary
from anyshot.retab.options import BoundaryMap
from anyshot.retab.samples import read_data
from anyshot.retab.training import load_network

ALL_OPEN = 0.99  # an eroded pixel stays open when at least this share of the kernel is open


def open_pixels(probability: np.ndarray, options: BoundaryMap) -> np.ndarray:
    """Non-boundary pixels, bool (H, W), of boundary probabilities (H, W)."""
    opened = probability < options.threshold
    if options.erosion:
        kernel = (options.erosion, options.erosion)
        opened = cv2.blur(opened.astype(np.float32), kernel, borderType=cv2.BORDER_REPLICATE) >= ALL_OPEN
    return opened


def main(job: Job[BoundaryMap]) -> None:
    samples, table = read_data(job.input("manifest"), job.input("classes"), job.options.dataset.subsets)
    model, card = load_network(
        job.input("boundary"), network="retab_boundary", table=table, split=job.options.dataset.split
    )
    model.to(job.device)
    attributes = {**job.provenance(), "split": card["split"]}

    with StoreWriter(job.output("store"), attributes=attributes) as out, torch.inference_mode():
        for sample in job.progress(job.mine(samples)):
            image = read_image(sample.image)
            height, width = image.shape[:2]
            pixels = normalise(image, mean=card["input"]["mean"], std=card["input"]["std"])[None].to(
                job.device
            )
            probability = upsample_boundary(model(pixels), (height, width)).sigmoid()[0].float().cpu().numpy()
            opened = open_pixels(probability, job.options).astype(np.float16)
            out.add(sample.id, [table.background_id], opened[None], height=height, width=width)


if __name__ == "__main__":
    run("retab.boundary_map", BoundaryMap, main)
