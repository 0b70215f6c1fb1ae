# Folders of LarvSeg, and which of its artifacts a stage needs. The wildcard {split} is an experiment.
LARVSEG = f"{R}/larvseg"
LS = f"{LARVSEG}/{{split}}"
LARVSEG_LOGS = f"{LOGS}/larvseg"
LARVSEG_BENCHMARKS = f"{BENCHMARKS}/larvseg"
LARVSEG_SHARDS = [f"{number}of{settings.larvseg.shards}" for number in range(1, settings.larvseg.shards + 1)]
LARVSEG_METHODS = ("attentive", "baseline", "pixel_only", "oracle")
LARVSEG_TARGETS = sorted(settings.larvseg.every_target())
LARVSEG_VOCABULARY = {"vocabulary": f"{LS}/vocabulary/vocabulary.json"}


LARVSEG_IMAGES = f"{LARVSEG}/shared/images"


def larvseg_of_data(file, *, of_sets):
    """A file of every data set that an experiment names; of image sets another one."""

    def path(name):
        sets = settings.larvseg.image_sets
        return f"{LARVSEG_IMAGES}/{name}/{of_sets}" if name in sets else f"{R}/data/{name}/{file}"

    return lambda wildcards: [path(name) for name in settings.larvseg.experiments[wildcards.split].data()]


def larvseg_target_manifest(wildcards):
    """The manifest of a target's data set; of the first target where the rule has no {target}."""
    experiment = settings.larvseg.experiments[wildcards.split]
    name = wildcards.get("target", experiment.targets[0].name)
    return f"{R}/data/{experiment.target(name).data}/manifest.csv"


LARVSEG_CLASSES = larvseg_of_data("classes.csv", of_sets="classes.csv")
LARVSEG_MANIFESTS = larvseg_of_data("manifest.csv", of_sets="images.json")
LARVSEG_LISTS = {"classes": LARVSEG_CLASSES, **LARVSEG_VOCABULARY}
LARVSEG_DATA = {"manifest": LARVSEG_MANIFESTS, **LARVSEG_LISTS}
LARVSEG_TARGET = {"manifest": larvseg_target_manifest, **LARVSEG_LISTS}


def larvseg_weights(split, method):
    folder = "attentive" if method == "attentive" else f"baseline/{method}"
    return f"{LS}/{folder}/model.safetensors".format(split=split)


def larvseg_network(wildcards):
    """The weights of a method; where the rule has no {method}, those of `segment_21k.method`."""
    return larvseg_weights(wildcards.split, wildcards.get("method", settings.larvseg.segment_21k.method))


def larvseg_predicted(file, splits):
    """A file of every shard of every prediction of some experiments."""
    return [
        f"{LS}/predict/{method}/{target}/{shard}/{file}".format(split=split)
        for split in splits
        for method in settings.larvseg.methods
        for target in settings.larvseg.targets(split)
        for shard in LARVSEG_SHARDS
    ]


def larvseg_counts(wildcards):
    return larvseg_predicted("counts.json", [wildcards.split])


def larvseg_compactness(splits):
    wanted = splits if settings.larvseg.measure_compactness else []
    return [f"{LS}/compactness.json".format(split=split) for split in wanted]


def larvseg_segmented(splits):
    wanted = splits if settings.larvseg.segment_21k.data else []
    return [f"{LS}/segment_21k/segments.csv".format(split=split) for split in wanted]


def larvseg_reported():
    """LarvSeg's inputs of the report by name: what all experiments have."""
    splits = settings.larvseg.built()
    data = [settings.larvseg.experiments[split].targets[0].data for split in splits]
    curves = [
        larvseg_weights(split, method).replace("model.safetensors", "train.jsonl")
        for split in splits
        for method in settings.larvseg.methods
    ]
    return {
        "manifest": [f"{R}/data/{name}/manifest.csv" for name in dict.fromkeys(data)],
        "classes": [f"{R}/data/{name}/classes.csv" for name in dict.fromkeys(data)],
        "card": [f"{R}/data/{name}/card.json" for name in dict.fromkeys(data)],
        "summary": f"{LARVSEG}/summary.csv",
        "miou": [f"{LS}/miou.json".format(split=split) for split in splits],
        "mapping": [f"{LS}/vocabulary/mapping.json".format(split=split) for split in splits],
        "curves": curves,
        "model_cards": [path.replace("train.jsonl", "model.json") for path in curves],
        "shown": larvseg_predicted("shown.h5", splits),
        "predict": larvseg_predicted("labels.csv", splits),
        "compactness": larvseg_compactness(splits),
        "benchmarks": larvseg_measured(),
    }


def larvseg_measured():
    """Benchmark files (seconds, memory) of all stages of all experiments."""
    found = []
    for split in settings.larvseg.built():
        names = ["vocabulary", "attentive", "evaluate"]
        names += [f"baseline.{method}" for method in settings.larvseg.methods if method != "attentive"]
        names += [
            f"predict.{method}.{target}.{shard}"
            for method in settings.larvseg.methods
            for target in settings.larvseg.targets(split)
            for shard in LARVSEG_SHARDS
        ]
        found += [f"{LARVSEG_BENCHMARKS}/{split}/{name}.tsv" for name in names]
    return found


localrules:
    larvseg_all,
    larvseg_summary,
