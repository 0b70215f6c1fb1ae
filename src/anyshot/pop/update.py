"""Stage 2: what is trained, with which loss, by method; and the averages of the prototype baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyshot.engine.train import Loss, all_reduce_sum
from anyshot.errors import ArtifactError
from anyshot.ops.projections import novel_orthogonality, pseudo_labels
from anyshot.ops.upsampled import upsampled_cross_entropy
from anyshot.options import OptimiserOptions
from anyshot.pop.datasets import WholeImages
from anyshot.pop.head import PrototypeHead
from anyshot.pop.heads import CosineHead
from anyshot.pop.options import NovelUpdate
from anyshot.pop.tables import FoldTables


def trained_head(base: PrototypeHead, tables: FoldTables, options: NovelUpdate) -> PrototypeHead:
    """The head that a method trains, drawn with torch's generator.

    `finetune` trains all of it, as one classifier; every other method only the novel prototypes and the
    classifier of novel classes and background. `no_residual` classifies background by the whole feature.
    """
    head = base.with_novel(tables.novel_count)
    if options.method != "finetune":
        head.freeze_base()
    if options.method == "no_residual":
        head.background = "feature"
    return head


def update_groups(head: PrototypeHead, options: OptimiserOptions) -> list[dict[str, Any]]:
    """What is trained of a head, for the training loop.

    The novel prototypes, which alone start anew, have lr `head_multiplier`, all else 1.
    """
    trained = [one for one in head.parameters() if one.requires_grad and one is not head.novel_emb]
    return [{"params": [head.novel_emb], "scale": options.head_multiplier}, {"params": trained}]


def update_loss(head: PrototypeHead, options: NovelUpdate) -> Loss:
    """The loss of stage 2 (pop.md 2.4): cross entropy over novel and base images together, the base ones
    with pseudo labels, and orthogonality. Fine-tuning has cross entropy alone.

    A batch holds `labels` (B, 2, H, W), novel image first, and `image` or `features` (B, 2, ...).
    """
    plain = options.method == "finetune"
    weight = 0.0 if plain or options.method == "no_orthogonality" else options.orthogonality_weight

    def loss(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        inputs = batch["features"] if "features" in batch else batch["image"]
        labels = batch["labels"]
        logits = model(inputs.flatten(0, 1)).float()
        if options.pseudo_labels and not plain:
            labels = torch.stack([labels[:, 0], _relabelled(logits[1::2], labels[:, 1], head)], dim=1)
        entropy = upsampled_cross_entropy(
            logits, labels.flatten(0, 1), align_corners=True, all_reduce_sum=all_reduce_sum
        )
        overlap = novel_orthogonality(head.novel_emb, head.base_emb)
        total = entropy + weight * overlap
        return {"loss": total, "cross_entropy": entropy.detach(), "orthogonality": overlap.detach()}

    return loss


def _relabelled(logits: Tensor, labels: Tensor, head: PrototypeHead) -> Tensor:
    """Labels of base images (B, H, W), their background by the background's and the novel logits."""
    shown = torch.cat([logits[:, :1], logits[:, 1 + head.base :]], dim=1)
    return pseudo_labels(shown, labels, head.base)


def averaged_head(
    images: WholeImages,
    *,
    supports: Mapping[int, Sequence[str]],
    base_images: Iterable[str],
    temperature: float,
) -> CosineHead:
    """The prototype baseline: novel prototypes from the supports, base and background from base images.

    A prototype is the mean, over images, of the unit-length mean feature of the class's pixels.
    supports: ids of images by novel class id; base_images: ids, whose novel pixels are background. Raises
    ArtifactError where features are no numbers.
    """
    tables = images.tables
    sums: dict[int, list[Tensor]] = {index: [] for index in range(len(tables.names))}
    for class_id, ids in supports.items():
        index = tables.id_to_index[class_id]
        for sample_id in ids:
            found = class_means(images.features(sample_id), images.labels(sample_id, novel=True), [index])
            sums[index] += found.values()
    known = range(1 + tables.base_count)
    for sample_id in base_images:
        found = class_means(images.features(sample_id), images.labels(sample_id, novel=False), known)
        for index, mean in found.items():
            sums[index].append(mean)
    channels = next(len(mean) for means in sums.values() for mean in means)
    head = CosineHead(channels=channels, classes=len(tables.names), temperature=temperature)
    for index, means in sums.items():
        if means:
            head.prototypes[index] = torch.stack(means).mean(dim=0)
    if not head.prototypes.isfinite().all():
        raise ArtifactError("a prototype has values that are no numbers: train pop.base again")
    return head


def class_means(features: Tensor, labels: np.ndarray, indices: Iterable[int]) -> dict[int, Tensor]:
    """Unit-length mean feature (C,) of the classes that are there, a cell weighted by its share of pixels.

    features (C, h, w), labels (size, size), both of the same square.
    """
    classes = [index for index in indices if (labels == index).any()]
    if not classes:
        return {}
    masks = torch.from_numpy(np.stack([labels == index for index in classes])).float()
    shares = F.adaptive_avg_pool2d(masks, (features.shape[1], features.shape[2])).flatten(1)
    sums = shares.to(features) @ features.flatten(1).T
    return dict(zip(classes, F.normalize(sums, dim=1).cpu(), strict=True))
