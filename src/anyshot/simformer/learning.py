"""The loss of a training step, and what the variants leave out of it (simformer.md 2.4 to 2.9)."""

from __future__ import annotations

from torch import Tensor, nn

from anyshot.engine.sampling import Batch
from anyshot.simformer.criterion import Normalisers, set_losses
from anyshot.simformer.datasets import Supervision
from anyshot.simformer.matching import match
from anyshot.simformer.networks import SimFormer
from anyshot.simformer.options import Joint, Matching, PairLosses, SetLosses
from anyshot.simformer.pair_losses import pair_losses
from anyshot.simformer.targets import Targets

SUMMED = ("counts",)  # entries of a batch of which a part needs the total of the whole batch
WITHOUT_PAIRS = ("no_extras", "ignore_novel", "oracle")
WITHOUT_COMPLEMENT = ("no_extras", "no_complementary", "ignore_novel", "oracle")


def supervision_of(options: Joint) -> Supervision:
    """What a variant knows of the novel classes."""
    if options.variant == "oracle":
        return "masks"
    return "none" if options.variant == "ignore_novel" else options.novel_label_source


def variant_losses(options: Joint) -> tuple[SetLosses, PairLosses | None]:
    """The losses of a variant: those of the set, and those of the pairs or None."""
    of_set, of_pairs = options.losses, options.pairs
    if options.variant in WITHOUT_COMPLEMENT:
        of_set = of_set.model_copy(update={"complementary_weight": 0.0})
    if options.variant in WITHOUT_PAIRS:
        return of_set, None
    if options.variant == "no_similarity":
        of_pairs = of_pairs.model_copy(update={"similarity_weight": 0.0})
    if options.variant == "no_distillation":
        of_pairs = of_pairs.model_copy(update={"distillation_weight": 0.0})
    return of_set, of_pairs


def training_loss(
    model: SimFormer,
    wrapped: nn.Module,
    batch: Batch,
    *,
    matching: Matching,
    of_set: SetLosses,
    of_pairs: PairLosses | None,
    novel: Tensor,
) -> dict[str, Tensor]:
    """The loss of a batch of crops, or of pairs of crops, and its parts.

    model: whose similarity network the pair losses use; wrapped: the same, as the training loop calls it.
    novel: (K,) bool, the novel classes.
    """
    shape = batch["image"].shape
    crops = {name: batch[name].flatten(0, len(shape) - 4) for name in ("image", "labels", "novel", "pad")}
    proposals = wrapped(crops["image"])
    targets = Targets(labels=crops["labels"], novel=crops["novel"], pad=crops["pad"])
    images, labels, masks, incomplete = batch["counts"]
    normalisers = Normalisers(images=images, labels=labels, masks=masks, incomplete=incomplete)
    matches = match(proposals, targets, matching)
    parts = set_losses(proposals, targets, matches, normalisers, of_set)
    minimised = list(parts.values())
    if of_pairs is not None:
        assert model.similarity is not None  # built for these losses
        assert model.balance is not None
        found = pair_losses(
            proposals,
            targets,
            net=model.similarity,
            balance=model.balance,
            seeds=batch["seed"],
            novel=novel,
            options=of_pairs,
        )
        parts |= found
        minimised += [found["similarity"], found["distillation"]]
    return {
        "loss": sum(minimised[1:], minimised[0]),
        **{name: value.detach() for name, value in parts.items()},
    }
