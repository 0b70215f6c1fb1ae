# Folders of RAML, and which of its artifacts a stage needs.

RAML = f"{R}/raml"
O = f"{RAML}/{{split}}"
RAML_LOGS = f"{LOGS}/raml"
RAML_BENCHMARKS = f"{BENCHMARKS}/raml"
RAML_DATA = {
    "manifest": f"{R}/data/{settings.raml.data}/manifest.csv",
    "classes": f"{R}/data/{settings.raml.data}/classes.csv",
}
RAML_SHARDS = [f"{number}of{settings.raml.shards}" for number in range(1, settings.raml.shards + 1)]
RAML_COUNTS = expand(f"{O}/open_world/{{shard}}/counts.json", shard=RAML_SHARDS, allow_missing=True)

# Every bank of a split: each number of shots with each draw of support images.
BANKS = [f"{O}/novel_bank/{shot}shot_seed{seed}/bank.json" for shot, seed in settings.raml.banks()]


def raml_reported():
    """RAML's inputs of the report by name: what the enabled splits have."""

    def each(*patterns):
        return expand(patterns, split=settings.raml.splits, shard=RAML_SHARDS)

    trained = ("closed_set", "meta_channel", "metric")
    curves = list(dict.fromkeys(each(*(f"{O}/{stage}/train.jsonl" for stage in trained))))
    return {
        **RAML_DATA,
        "card": f"{R}/data/{settings.raml.data}/card.json",
        "summary": f"{RAML}/summary.csv",
        "miou": each(f"{O}/miou.json"),
        "anomaly": each(f"{O}/anomaly.json"),
        "curves": curves,
        "model_cards": [path.replace("train.jsonl", "model.json") for path in curves],
        "shown": each(f"{O}/open_world/{{shard}}/shown.h5"),
        "regions": each(f"{O}/open_world/{{shard}}/regions.csv"),
        "predict": each(f"{O}/open_world/{{shard}}/labels.csv"),
        "benchmarks": raml_measured(),
    }


def raml_measured():
    """Benchmark files (seconds, memory) of all stages of the enabled splits."""
    once = ["split", "closed_set", "meta_channel", "metric", "evaluate", "anomaly"]
    banks = [f"novel_bank.{shot}shot_seed{seed}" for shot, seed in settings.raml.banks()]
    parts = [f"open_world.{shard}" for shard in RAML_SHARDS]
    stages = [*once, *banks, *parts]
    return [f"{RAML_BENCHMARKS}/{split}/{stage}.tsv" for split in settings.raml.splits for stage in stages]


localrules:
    raml_all,
    raml_summary,
