"""Multi-scale class activation maps of each training image, for the classes it shows (retab.md 2.4)."""

import numpy as np
import torch

from anyshot.data.images import read_image
from anyshot.engine.inference import multi_scale_logits
from anyshot.engine.stores import StoreWriter
from anyshot.job import Job, run
from anyshot.retab.networks import build_network
from anyshot.retab.options import Cam
from anyshot.retab.samples import read_data
from anyshot.retab.training import load_network

EPSILON = 1e-5


def main(job: Job[Cam]) -> None:
    options = job.options
    samples, table = read_data(job.input("manifest"), job.input("classes"), options.dataset.subsets)
    samples = job.mine(samples)
    model, card = load_network(
        job.input("classifier"), network="retab_classifier", table=table, split=options.dataset.split
    )
    if options.output_stride is not None:  # the same weights, dilated
        network = dict(card["network"]["options"])
        network["backbone"] = {**network["backbone"], "output_stride": options.output_stride}
        dilated = build_network({"name": "retab_classifier", "options": network}, load=False)
        dilated.load_state_dict(model.state_dict())
        model = dilated.eval()
    model.to(job.device)
    positions = {class_id: k for k, class_id in enumerate(table.foreground_ids)}
    passes = len(options.scales) * (2 if options.mirror else 1)

    with StoreWriter(job.output("store"), attributes=job.provenance()) as out, torch.inference_mode():
        for sample in job.progress(samples):
            image = read_image(sample.image)
            shown = [positions[class_id] for class_id in sample.labels]

            def maps(images: torch.Tensor, shown: list[int] = shown) -> torch.Tensor:
                return model.activation_maps(images)[:, shown]  # type: ignore[operator]

            height, width = image.shape[:2]
            cams = np.zeros((0, height, width), dtype=np.float32)
            if shown:
                mean_maps = multi_scale_logits(
                    maps,
                    image,
                    scales=options.scales,
                    flip=options.mirror,
                    mean=card["input"]["mean"],
                    std=card["input"]["std"],
                    device=job.device,
                    resize="bicubic",
                )
                total = mean_maps * passes  # the published maps are sums over the passes
                cams = (total / (total.amax(dim=(1, 2), keepdim=True) + EPSILON)).cpu().numpy()
            out.add(sample.id, sample.labels, cams, height=height, width=width, dtype=options.dtype)


if __name__ == "__main__":
    run("retab.cam", Cam, main)
