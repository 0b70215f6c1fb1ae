"""Score how anomalous every pixel looks, in several ways, and how well that finds the novel (raml.md 2.7)."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import read_samples
from anyshot.data.split_tables import read_tables
from anyshot.data.transforms import normalise
from anyshot.engine.artifacts import write_json
from anyshot.errors import DataError
from anyshot.job import Job, run
from anyshot.ops.anomaly import (
    euclidean_distance_sum,
    max_logit,
    max_softmax,
    mmsp,
    raml_anomaly_map,
    urs_regions,
)
from anyshot.ops.anomaly_metrics import AnomalyTally
from anyshot.ops.regions import match_regions, region_means
from anyshot.raml.artifacts import load_network
from anyshot.raml.bank import DMLNET_SCALE
from anyshot.raml.networks import MetricNet, OpenMaps
from anyshot.raml.options import Anomaly

PROTOCOL = (
    "Anomalous are the pixels of classes that training did not see; void pixels are left out. Every score is"
    " high where a pixel looks anomalous. aupr is the step-wise average precision; fpr95 the false positive"
    " rate at the first recall of 0.95 or more, fpr95_nearest at the recall nearest to 0.95. per_image: mean"
    " over the images with an anomalous pixel; pooled: all pixels together."
)


def region_map(
    model: MetricNet, maps: OpenMaps, image: np.ndarray, logits: Tensor, options: Anomaly
) -> Tensor:
    """RAML's map (H, W): edges give regions, each with its best cosine to a known prototype."""
    proposals = urs_regions(image, logits, sobel=options.sobel, uncertainty=options.uncertainty)
    rows, columns = maps.feature.shape[-2:]
    labels = proposals.regions.labels
    height, width = labels.shape
    cells = labels[np.ix_(np.arange(rows) * height // rows, np.arange(columns) * width // columns)]
    count = proposals.regions.count
    embeddings = model.embedding.unit(region_means(maps.feature[0], cells, count))
    cosines, _ = match_regions(embeddings, model.embedding.known_prototypes, 0.0)
    similarities = cosines.amax(dim=1) if count else cosines.new_zeros(0)
    # a region too thin for the grid has no feature: it counts as known, like a component that is too small
    missing = torch.from_numpy(np.bincount(cells.reshape(-1), minlength=count + 1)[1:] == 0)
    similarities = torch.where(missing.to(similarities.device), 1.0, similarities)
    return raml_anomaly_map(logits, proposals, similarities)


def main(job: Job[Anomaly]) -> None:
    options = job.options
    tables = read_tables(job.input("split"), job.input("classes"))
    samples = read_samples(job.input("manifest"), options.dataset.subsets)
    split = options.dataset.split
    model, card = load_network(job.input("metric"), network="raml_metric", tables=tables, split=split)
    model.to(job.device)
    assert isinstance(model, MetricNet)
    mean, std = card["input"]["mean"], card["input"]["std"]
    unseen = [*tables.novel_ids, *tables.ignored_ids]
    tallies = {name: AnomalyTally() for name in options.scores}

    with torch.inference_mode():
        for sample in job.progress(samples):
            if sample.mask is None:
                raise DataError(f"image {sample.id} has no mask, so nothing can be scored on it")
            image, mask = read_image(sample.image), read_mask(sample.mask)
            flags = np.isin(mask, unseen)
            valid = flags | (tables.closed_lut[mask] < tables.known)
            maps = model(normalise(image, mean=mean, std=std)[None].to(job.device))
            logits = F.interpolate(
                maps.logits.float(), size=mask.shape, mode="bilinear", align_corners=False
            )[0]
            ways: dict[str, Callable[[], Tensor]] = {
                "max_softmax": lambda logits=logits: max_softmax(logits),
                "max_logit": lambda logits=logits: max_logit(logits),
                "mmsp": lambda logits=logits: mmsp(logits / DMLNET_SCALE),
                "eds": lambda logits=logits: euclidean_distance_sum(logits / DMLNET_SCALE),
                "raml": lambda maps=maps, image=image, logits=logits: region_map(
                    model, maps, image, logits, options
                ),
            }  # fmt: skip
            for name, tally in tallies.items():
                tally.add(ways[name]().cpu().numpy(), flags, valid=valid)

    content = {
        "system": "raml",
        "dataset": job.input("manifest").parent.name,
        "split": split,
        "subset": " ".join(options.dataset.subsets),
        "protocol": PROTOCOL,
        "scores": {name: tally.result() for name, tally in tallies.items()},
    }
    write_json(job.output("anomaly"), {**content, **job.provenance()})


if __name__ == "__main__":
    run("raml.anomaly", Anomaly, main)
