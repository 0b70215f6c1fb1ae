# Folders of RETAB, and which of its artifacts a stage needs.

RETAB = f"{R}/retab"
S = f"{RETAB}/{{split}}"
C = f"{RETAB}/shared"
RETAB_LOGS = f"{LOGS}/retab"
RETAB_BENCHMARKS = f"{BENCHMARKS}/retab"
M = {
    "manifest": f"{R}/data/{settings.retab.data}/manifest.csv",
    "classes": f"{R}/data/{settings.retab.data}/classes.csv",
}
SHARDS = [f"{number}of{settings.retab.shards}" for number in range(1, settings.retab.shards + 1)]
SPLITS_AND_SHARED = one_of([*settings.splits(), "shared"])


def sharded(pattern):
    """All shards of an artifact; the other wildcards stay.

    For what reads all images. A stage that works image by image reads its own shard of what went before: a
    shard has the same images in every stage, and with all of them the edges would be the square of the shards.
    """
    return expand(pattern, shard=SHARDS, allow_missing=True)


def retab_affinity_of(wildcards):
    """The affinities a walk runs on: PSA's for `psa`, the configured line's for `retab`."""
    if wildcards.walk == "psa":
        folder = affinity_folder("shared", "crf_only")
    else:
        folder = affinity_folder(wildcards.split, settings.retab.affinity.labels)
    return f"{RETAB}/{folder.format('affinity_map')}/{wildcards.shard}.h5"


def affinity_folder(split, labels):
    """CRF labels do not depend on the split, so affinities learned from them alone are shared."""
    return f"{'shared' if labels == 'crf_only' else split}/{{}}/{labels}"


def require(condition, wildcards, reason):
    """Stop at a combination of wildcards that is no result."""
    if not condition:
        raise WorkflowError(f"there is no such result ({dict(wildcards.items())}): {reason}")


def retab_affinity_input(labels, *paths):
    """Input of the affinity training that only some kinds of labels need."""

    def choose(wildcards):
        shared = (wildcards.split == "shared") == (wildcards.labels == "crf_only")
        require(shared, wildcards, "labels crf_only, and no others, lie under shared")
        return list(paths) if wildcards.labels in labels else []

    return choose


def retab_walk_boundary(wildcards):
    """The gates of RETAB's walk; PSA's walk has none."""
    shared = (wildcards.split == "shared") == (wildcards.walk == "psa")
    require(shared, wildcards, "the walk psa, and no other, lies under shared")
    gates = f"{RETAB}/{wildcards.split}/boundary_map/{wildcards.shard}.h5"
    return [gates] if wildcards.walk == "retab" else []


def psa(pattern):
    """An artifact of the baseline; nothing when `retab.baselines` leaves it out."""
    return sharded(pattern) if "psa" in settings.retab.baselines else []


def affinity_lines():
    """(split or shared, labels) of every affinity network in use: RETAB's for each split, and PSA's."""
    labels = settings.retab.affinity.labels
    lines = [("shared" if labels == "crf_only" else split, labels) for split in settings.retab.folds]
    lines += [("shared", "crf_only")] if settings.retab.baselines else []
    return list(dict.fromkeys(lines))


def retab_reported():
    """RETAB's inputs of the report by name: what the enabled splits have."""

    def each(*patterns):
        return expand(patterns, split=settings.retab.folds, shard=SHARDS)

    affinity = [f"{RETAB}/{split}/affinity/{labels}/train.jsonl" for split, labels in affinity_lines()]
    per_split = dict.fromkeys(each(f"{S}/boundary/train.jsonl", f"{S}/segmentation/train.jsonl"))
    curves = [f"{C}/classifier/train.jsonl", *affinity, *per_split]
    return {
        **M,
        "card": f"{R}/data/{settings.retab.data}/card.json",
        "summary": f"{RETAB}/summary.csv",
        "miou": each(f"{S}/miou.json"),
        "scores": each(f"{S}/score_maps/scores.json"),
        "images": each(f"{S}/score_maps/images.csv", f"{S}/evaluate/images.csv"),
        "samples": each(f"{S}/split/samples.csv"),
        "curves": curves,
        "model_cards": [path.replace("train.jsonl", "model.json") for path in curves],
        "cam": sharded(f"{C}/cam/{{shard}}.h5"),
        "psa_walk": psa(f"{C}/random_walk/psa/{{shard}}.h5"),
        "retab_walk": each(f"{S}/random_walk/retab/{{shard}}.h5"),
        "pseudo_label": each(f"{S}/pseudo_label/{{shard}}/labels.csv"),
        "predict": each(f"{S}/predict/{{shard}}/labels.csv"),
        "benchmarks": retab_measured(),
    }


def retab_measured():
    """Benchmark files (seconds, memory) of all stages of the enabled splits."""
    whole = ["shared/classifier"]
    parts = ["shared/cam", "shared/crf_label"]  # these are cut into shards
    parts += ["shared/random_walk.psa"] if settings.retab.baselines else []
    for split, labels in affinity_lines():
        whole.append(f"{split}/affinity.{labels}")
        parts.append(f"{split}/affinity_map.{labels}")
    once = ["split", "boundary", "segmentation", "score_maps", "evaluate"]
    cut = ["boundary_map", "random_walk.retab", "pseudo_label", "predict"]
    whole += [f"{split}/{stage}" for split in settings.retab.folds for stage in once]
    parts += [f"{split}/{stage}" for split in settings.retab.folds for stage in cut]
    whole += [f"{stage}.{shard}" for stage in parts for shard in SHARDS]
    return [f"{RETAB_BENCHMARKS}/{stage}.tsv" for stage in whole]


localrules:
    retab_all,
    retab_summary,
