# Folders of SimFormer, and which of its artifacts a stage needs.
from typing import get_args

from anyshot.simformer.options import Variant
from anyshot.simformer.system import RETRAINED

SIMFORMER_VARIANTS = get_args(Variant)

SIMFORMER = f"{R}/simformer"
SF = f"{SIMFORMER}/{{split}}"
SIMFORMER_LOGS = f"{LOGS}/simformer"
SIMFORMER_BENCHMARKS = f"{BENCHMARKS}/simformer"
SIMFORMER_DATA = {
    "manifest": f"{R}/data/{settings.simformer.data}/manifest.csv",
    "classes": f"{R}/data/{settings.simformer.data}/classes.csv",
}
SIMFORMER_SHARDS = [
    f"{number}of{settings.simformer.shards}" for number in range(1, settings.simformer.shards + 1)
]
SIMFORMER_COUNTS = expand(
    f"{SF}/predict/{{method}}/{{shard}}/counts.json",
    method=settings.simformer.scored(),
    shard=SIMFORMER_SHARDS,
    allow_missing=True,
)
SIMFORMER_PSEUDO = expand(
    f"{SF}/pseudo_label/{{shard}}/labels.csv", shard=SIMFORMER_SHARDS, allow_missing=True
)


def simformer_network(wildcards):
    """The weights of a variant, or of the network that was trained again."""
    folder = "retrain" if wildcards.method == RETRAINED else f"joint/{wildcards.method}"
    return f"{SF}/{folder}/model.safetensors".format(split=wildcards.split)


def simformer_reported():
    """SimFormer's inputs of the report by name: what the enabled splits have."""

    def each(*patterns):
        return expand(
            patterns,
            split=settings.simformer.splits,
            shard=SIMFORMER_SHARDS,
            variant=settings.simformer.variants,
            method=settings.simformer.scored(),
        )

    curves = each(f"{SF}/joint/{{variant}}/train.jsonl")
    curves += each(f"{SF}/retrain/train.jsonl") if settings.simformer.retraining else []
    return {
        **SIMFORMER_DATA,
        "card": f"{R}/data/{settings.simformer.data}/card.json",
        "summary": f"{SIMFORMER}/summary.csv",
        "miou": each(f"{SF}/miou.json"),
        "curves": curves,
        "model_cards": [path.replace("train.jsonl", "model.json") for path in curves],
        "shown": each(f"{SF}/predict/{{method}}/{{shard}}/shown.h5"),
        "predict": each(f"{SF}/predict/{{method}}/{{shard}}/labels.csv"),
        "benchmarks": simformer_measured(),
    }


def simformer_measured():
    """Benchmark files (seconds, memory) of all stages of the enabled splits."""
    stages = ["pairs", "evaluate", *(f"joint.{variant}" for variant in settings.simformer.variants)]
    stages += [f"predict.{one}.{shard}" for one in settings.simformer.scored() for shard in SIMFORMER_SHARDS]
    if settings.simformer.retraining:
        stages += ["retrain", *(f"pseudo_label.{shard}" for shard in SIMFORMER_SHARDS)]
    return [
        f"{SIMFORMER_BENCHMARKS}/{split}/{stage}.tsv"
        for split in settings.simformer.splits
        for stage in stages
    ]


localrules:
    simformer_all,
    simformer_summary,
