"""Jobs and files of every stage, computed from a configuration alone.

`tests/workflow/test_scale.py` holds them equal to what Snakemake plans and to the files of a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from anyshot.config import Config

Subset = Literal["none", "train", "evaluated"]

BESIDE = 2  # log and benchmark of a job
HEAD = 3  # files of a training: weights, card, curve


@dataclass(frozen=True)
class Stage:
    """Jobs of a rule: how many, how many files the rule names per job, and whose label maps they write.

    `passes` counts how often all images of `maps` are gone through, by all jobs together.
    """

    rule: str
    jobs: int
    outputs: int = 1
    maps: Subset = "none"
    passes: int = 0

    def files(self, train: int, evaluated: int) -> int:
        """Files in the results folder, for so many images."""
        images = {"none": 0, "train": train, "evaluated": evaluated}[self.maps]
        return self.jobs * (self.outputs + BESIDE) + self.passes * images

    def records(self) -> int:
        """Files in `.snakemake/metadata`: one per output."""
        return self.jobs * self.outputs


def retab(config: Config) -> list[Stage]:
    options = config.retab
    shards, folds = options.shards, len(options.folds)
    psa = bool(options.baselines)
    own = 1 if options.affinity.labels == "crf_only" else folds  # affinity networks of RETAB's own walk
    lines = own + (psa and options.affinity.labels != "crf_only")
    return [
        Stage("retab_split", folds, 2),
        Stage("retab_classifier", 1, HEAD),
        Stage("retab_cam", shards),
        Stage("retab_crf_label", shards),
        Stage("retab_boundary", folds, HEAD),
        Stage("retab_boundary_map", folds * shards),
        Stage("retab_affinity", lines, HEAD),
        Stage("retab_affinity_map", lines * shards),
        Stage("retab_random_walk", (folds + psa) * shards),
        Stage("retab_pseudo_label", folds * shards, 1, "train", folds),
        Stage("retab_segmentation", folds, HEAD),
        Stage("retab_predict", folds * shards, 1, "evaluated", folds),
        Stage("retab_score_maps", folds, 2),
        Stage("retab_evaluate", folds, 2),
        Stage("retab_summary", 1),
    ]


def raml(config: Config) -> list[Stage]:
    options = config.raml
    splits = len(options.splits)
    return [
        Stage("raml_split", splits),
        *(Stage(f"raml_{name}", splits, HEAD) for name in ("closed_set", "meta_channel", "metric")),
        Stage("raml_novel_bank", splits * len(options.banks())),
        Stage("raml_open_world", splits * options.shards, 4, "evaluated", splits),
        Stage("raml_evaluate", splits),
        Stage("raml_anomaly", splits),
        Stage("raml_summary", 1),
    ]


def pop(config: Config) -> list[Stage]:
    options = config.pop
    folds = len(options.folds)
    drawn = [fold for fold in options.folds if options.novel_names(fold)]
    cached = options.novel_update.mode == "cached"
    return [
        Stage("pop_index", 1),
        Stage("pop_base", folds, HEAD),
        Stage("pop_support", len(drawn) * len(options.draws())),
        Stage("pop_features", len(drawn) if cached else 0),
        Stage("pop_views", len(drawn) * len(options.draws()) if options.has_views() else 0),
        Stage("pop_novel_update", sum(len(options.heads(fold)) for fold in drawn), HEAD),
        Stage("pop_predict", folds * options.shards, 3, "evaluated", folds),
        Stage("pop_evaluate", folds),
        Stage("pop_summary", 1),
    ]


def simformer(config: Config) -> list[Stage]:
    options = config.simformer
    splits, variants, scored = len(options.splits), len(options.variants), len(options.scored())
    again = splits if options.retraining else 0
    return [
        Stage("simformer_pairs", splits),
        Stage("simformer_joint", splits * variants, HEAD),
        Stage("simformer_pseudo_label", again * options.shards, 1, "train", again),
        Stage("simformer_retrain", again, HEAD),
        Stage("simformer_predict", splits * scored * options.shards, 3, "evaluated", splits * scored),
        Stage("simformer_evaluate", splits),
        Stage("simformer_summary", 1),
    ]


def larvseg(config: Config) -> list[Stage]:
    options = config.larvseg
    built, methods = options.built(), len(options.methods)
    targets = sum(len(options.targets(split)) for split in built)
    extra = len(built) if options.measure_compactness else 0
    segmented = len(built) if options.segment_21k.data else 0
    sets = [name for name in options.data_sets() if name in options.image_sets]
    return [
        Stage("larvseg_images", len(sets), 2),
        Stage("larvseg_vocabulary", len(built), 2),
        Stage("larvseg_baseline", len(built) * (methods - 1), HEAD),
        Stage("larvseg_attentive", len(built), HEAD),
        Stage("larvseg_predict", targets * methods * options.shards, 3, "evaluated", targets * methods),
        Stage("larvseg_compactness", extra),
        Stage("larvseg_segment_21k", segmented, 3, "evaluated", segmented),
        Stage("larvseg_evaluate", len(built)),
        Stage("larvseg_summary", 1),
    ]


SYSTEMS = {"retab": retab, "raml": raml, "pop": pop, "simformer": simformer, "larvseg": larvseg}


def data_sets(config: Config) -> list[str]:
    """The data sets that the enabled systems read through a manifest."""
    names: list[str] = []
    for system in config.systems:
        if system == "larvseg":
            names += [one for one in config.larvseg.data_sets() if one not in config.larvseg.image_sets]
        else:
            names.append(getattr(config, system).data)
    return list(dict.fromkeys(names))


def stages(config: Config, systems: Sequence[str] = ()) -> list[Stage]:
    """Every stage with a job that `all_folds` needs, of the enabled systems or of some of them."""
    found = [Stage("data_prepare", len(data_sets(config)), 3)]
    for system in systems or config.systems:
        found += SYSTEMS[system](config)
    return [stage for stage in found if stage.jobs]


def total_jobs(found: Iterable[Stage]) -> int:
    return sum(stage.jobs for stage in found)
