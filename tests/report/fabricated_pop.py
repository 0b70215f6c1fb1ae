"""POP's files of a run as the workflow would leave them, made up: for tests of the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anyshot.data.manifest import shown_ids
from anyshot.engine.label_maps import LabelMapWriter
from anyshot.engine.stores import StoreWriter
from anyshot.pop.evaluation import PROTOCOLS
from anyshot.pop.scores import prototype_cosines, scored_methods
from anyshot.pop.tables import FoldTables
from tests.report.fabricated_run import FabricatedRun, Picture

METHODS = ("pop", "prototype", "finetune", "no_orthogonality", "no_residual")
SHOTS = (1, 5)
SEEDS = (123, 234, 345)
SKILL = {"base": 0.0, "finetune": 0.3, "prototype": 0.2, "pop": 0.7, "no_orthogonality": 0.6}


def add_pop(
    run: FabricatedRun, split: str, novel: Sequence[int], *, seeds: Sequence[int] = SEEDS, shown: int = 2
) -> None:
    """Add POP on one split to a fabricated run: all that the report reads. Without novel classes: `joint`."""
    tables = FoldTables(run.table, tuple(novel))
    train, val = ([one for one in run.pictures if one.subset == name] for name in ("train", "val"))
    run.add_curve(f"{split}/base", ("cross_entropy", "orthogonality"), system="pop")
    run.add_json("model_cards", f"pop/{split}/base/model.json", {"stage": "pop.base", "anyshot": "1"})
    heads = [(method, shots, seed) for method in METHODS for shots in SHOTS for seed in seeds if novel]
    updates = [f"novel_update.{method}.{shots}shot_seed{seed}" for method, shots, seed in heads]
    run.add_benchmarks([f"pop/{split}/{stage}" for stage in ("base", *updates, "predict.1of1", "evaluate")])
    run.add_benchmarks(["pop/shared/index"])
    _miou(run, split, tables, heads, len(val))
    _pictures(run, split, tables, val, shown)
    for shots in SHOTS if novel else ():
        for seed in seeds:
            _supports(run, split, tables, train, shots, seed)


def _miou(
    run: FabricatedRun, split: str, tables: FoldTables, heads: Sequence[tuple[str, int, int]], images: int
) -> None:
    classes = len(tables.names)
    rng = np.random.default_rng(11)

    def matrix(skill: float) -> np.ndarray:
        counts = rng.integers(0, 40, (classes + 1, classes + 1))
        share = np.where(np.arange(classes) <= tables.base_count, 1.0 - 0.1 * skill, skill)
        counts[np.arange(classes), np.arange(classes)] += (900 * share).astype(int)
        return counts

    totals = {("base", 0, 0): matrix(0.0)}
    for method, shots, seed in heads:
        skill = SKILL.get(method, 0.5) * (0.6 + 0.08 * shots)
        totals[method, shots, seed] = matrix(skill + rng.uniform(-0.05, 0.05))
    variants = scored_methods(totals, tables)
    chosen = max(variants, key=lambda row: (row["variant"] == "pop", row["shots"]))
    prototypes = np.eye(classes - 1, 16) + rng.normal(0, 0.08, (classes - 1, 16))
    cosines = {"names": tables.names[1:], "before": prototype_cosines(prototypes[: tables.base_count])}
    if heads:
        drawn = {"variant": "pop", "shots": SHOTS[-1], "support_seed": heads[0][2]}
        cosines |= {**drawn, "after": prototype_cosines(prototypes)}
    run.add_json("miou", f"pop/{split}/miou.json", {
        "system": "pop", "dataset": "toy", "split": split, "subset": "val", "variant": chosen["variant"],
        "shots": chosen["shots"], "protocol": PROTOCOLS["pop"], "protocols": PROTOCOLS, "images": images,
        "miou": chosen["mean"], "spread": chosen["spread"], "classes": chosen["classes"],
        "variants": variants, "cosines": cosines, "seconds": 1.5, "seed": "0",
        "reference": {"pop_5shot": {"all": 0.7041, "base": 0.7474, "novel": 0.5655, "harmonic": 0.6438},
                      "source": "MODELS.md", "subset": "val"} if heads else {},
    })  # fmt: skip


def _pictures(run: FabricatedRun, split: str, tables: FoldTables, val: Sequence[Picture], shown: int) -> None:
    chosen = shown_ids([run.samples[picture.id] for picture in val], tables.novel_ids, shown)
    folder, novel = f"pop/{split}/predict/1of1", list(tables.novel_ids)
    with (
        LabelMapWriter(run.path("predict", f"{folder}/labels.csv"), run.table) as labels,
        StoreWriter(run.path("shown", f"{folder}/shown.h5"), attributes={"stage": "pop.predict"}) as store,
    ):
        for picture in val:
            labels.add(picture.id, picture.mask)
            if picture.id in chosen:
                base = np.where(np.isin(picture.mask, novel), 0, picture.mask)
                maps = {method: np.roll(picture.mask, 5, axis=0) for method in METHODS if novel}
                height, width = picture.mask.shape
                store.add(
                    picture.id, [], np.zeros((0, 1, 1), np.float32), height=height, width=width,
                    extra={**maps, "base": base},
                )  # fmt: skip


def _supports(
    run: FabricatedRun, split: str, tables: FoldTables, train: Sequence[Picture], shots: int, seed: int
) -> None:
    classes = []
    for number in tables.novel_ids:
        ids = [picture.id for picture in train if number in picture.labels]
        chosen = [ids[(seed + one) % len(ids)] for one in range(shots)]
        name = tables.table.name_of(number)
        classes.append({"id": number, "name": name, "supports": chosen, "pixels": [900] * shots})
    content = {"split": split, "shots": shots, "support_seed": seed, "classes": classes}
    run.add_json("supports", f"pop/{split}/support/{shots}shot_seed{seed}.json", content)
