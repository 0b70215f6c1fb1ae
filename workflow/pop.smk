# Folders of POP, and which of its artifacts a stage needs.

POP = f"{R}/pop"
F = f"{POP}/{{split}}"
POP_LOGS = f"{LOGS}/pop"
POP_BENCHMARKS = f"{BENCHMARKS}/pop"
POP_DATA = {
    "manifest": f"{R}/data/{settings.pop.data}/manifest.csv",
    "classes": f"{R}/data/{settings.pop.data}/classes.csv",
}
POP_SHARDS = [f"{number}of{settings.pop.shards}" for number in range(1, settings.pop.shards + 1)]
POP_COUNTS = expand(f"{F}/predict/{{shard}}/counts.json", shard=POP_SHARDS, allow_missing=True)
HEAD = f"{F}/novel_update/{{method}}/{{shot}}shot_seed{{support}}"
WEIGHTS = f"{HEAD}/model.safetensors"
# Of stages that run the whole network. One without workers: two folds side by side do more than one with two threads.
POP_THREADS = 1 + settings.pop.base.optimiser.workers


def pop_heads(wildcards):
    """Every head that is scored on a split: each method, number of shots and draw of support images."""
    return [
        WEIGHTS.format(split=wildcards.split, method=method, shot=shots, support=seed)
        for method, shots, seed in settings.pop.heads(wildcards.split)
    ]


def pop_features(wildcards):
    """The store of features, where the training takes them from it."""
    cached = settings.pop.novel_update.mode == "cached"
    return [f"{F}/features/features.h5".format(split=wildcards.split)] if cached else []


def pop_views(wildcards):
    """The store of views of a draw's support images, where a method is trained on them."""
    wanted = settings.pop.has_views() and wildcards.method != "prototype"
    return f"{F}/views/{{shot}}shot_seed{{support}}.h5".format(**wildcards) if wanted else []


def pop_reported():
    """POP's inputs of the report by name: what the enabled splits have."""

    def each(*patterns):
        return expand(patterns, split=settings.pop.folds, shard=POP_SHARDS)

    curves = each(f"{F}/base/train.jsonl")
    shown = [
        f"{F}/support/{shots}shot_seed{seed}.json".format(split=split)
        for split in settings.pop.folds
        for shots, seed in settings.pop.draws()
        if settings.pop.novel_names(split)
    ]
    return {
        **POP_DATA,
        "card": f"{R}/data/{settings.pop.data}/card.json",
        "summary": f"{POP}/summary.csv",
        "miou": each(f"{F}/miou.json"),
        "curves": curves,
        "model_cards": [path.replace("train.jsonl", "model.json") for path in curves],
        "supports": shown,
        "shown": each(f"{F}/predict/{{shard}}/shown.h5"),
        "predict": each(f"{F}/predict/{{shard}}/labels.csv"),
        "benchmarks": pop_measured(),
    }


def pop_measured():
    """Benchmark files (seconds, memory) of all stages of the enabled splits."""
    found = [f"{POP_BENCHMARKS}/shared/index.tsv"]
    for split in settings.pop.folds:
        stages = ["base", "evaluate", *(f"predict.{shard}" for shard in POP_SHARDS)]
        if settings.pop.novel_names(split):
            stages += [f"support.{shots}shot_seed{seed}" for shots, seed in settings.pop.draws()]
        heads = settings.pop.heads(split)
        stages += [f"novel_update.{method}.{shots}shot_seed{seed}" for method, shots, seed in heads]
        stages += ["features"] if heads and settings.pop.novel_update.mode == "cached" else []
        draws = settings.pop.draws() if heads and settings.pop.has_views() else []
        stages += [f"views.{shots}shot_seed{seed}" for shots, seed in draws]
        found += [f"{POP_BENCHMARKS}/{split}/{stage}.tsv" for stage in stages]
    return found


localrules:
    pop_all,
    pop_summary,
