# LarvSeg (PRCV 2024), its baselines and its limits. One stage, one name: rule larvseg_attentive, script
# workflow/scripts/larvseg/attentive.py, options class anyshot.larvseg.options.Attentive, configuration key
# larvseg.attentive. The wildcard {split} is an experiment, {method} what is trained, {target} what is scored.


include: "../workflow/larvseg.smk"


# Beside these two lie `index/` and `pack/`. They are no outputs, so that a stopped run keeps what is packed.
rule larvseg_images:
    output:
        classes=f"{LARVSEG_IMAGES}/{{name}}/classes.csv",
        images=f"{LARVSEG_IMAGES}/{{name}}/images.json",
    log:
        f"{LARVSEG_LOGS}/shared/images.{{name}}.log",
    benchmark:
        f"{LARVSEG_BENCHMARKS}/shared/images.{{name}}.tsv"
    wildcard_constraints:
        name=one_of(settings.larvseg.image_sets or ["-"]),
    conda:
        "../envs/anyshot.yaml"
    threads: 8
    resources:
        **need(gpu=0, megabytes=4000, minutes=2880),
    params:
        options=options("larvseg.images"),
    shell:
        stage("larvseg/images.py", "", "classes images")


rule larvseg_vocabulary:
    input:
        manifest=LARVSEG_MANIFESTS,
        classes=LARVSEG_CLASSES,
    output:
        vocabulary=f"{LS}/vocabulary/vocabulary.json",
        mapping=f"{LS}/vocabulary/mapping.json",
    log:
        f"{LARVSEG_LOGS}/{{split}}/vocabulary.log",
    benchmark:
        f"{LARVSEG_BENCHMARKS}/{{split}}/vocabulary.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 1
    resources:
        **need(gpu=0, megabytes=2000, minutes=30),
    params:
        options=options("larvseg.vocabulary"),
    shell:
        stage("larvseg/vocabulary.py", "manifest classes", "vocabulary mapping")


rule larvseg_baseline:
    input:
        **LARVSEG_DATA,
    output:
        **network(f"{LS}/baseline/{{method}}"),
    log:
        f"{LARVSEG_LOGS}/{{split}}/baseline.{{method}}.log",
    benchmark:
        f"{LARVSEG_BENCHMARKS}/{{split}}/baseline.{{method}}.tsv"
    wildcard_constraints:
        method="baseline|pixel_only|oracle",
    conda:
        "../envs/anyshot.yaml"
    threads: 1 + settings.larvseg.baseline.optimiser.workers
    resources:
        **need(gpu=settings.gpus.of("larvseg_baseline"), megabytes=32000, minutes=5760),
    params:
        options=options("larvseg.baseline"),
        seed=settings.seed,
    shell:
        stage("larvseg/baseline.py", "manifest classes vocabulary", "weights card curve", seed=True)


rule larvseg_attentive:
    input:
        **LARVSEG_DATA,
    output:
        **network(f"{LS}/attentive"),
    log:
        f"{LARVSEG_LOGS}/{{split}}/attentive.log",
    benchmark:
        f"{LARVSEG_BENCHMARKS}/{{split}}/attentive.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 1 + settings.larvseg.attentive.optimiser.workers
    resources:
        **need(gpu=settings.gpus.of("larvseg_attentive"), megabytes=32000, minutes=5760),
    params:
        options=options("larvseg.attentive"),
        seed=settings.seed,
    shell:
        stage("larvseg/attentive.py", "manifest classes vocabulary", "weights card curve", seed=True)


rule larvseg_predict:
    input:
        **LARVSEG_TARGET,
        network=larvseg_network,
    output:
        labels=f"{LS}/predict/{{method}}/{{target}}/{{shard}}/labels.csv",
        counts=f"{LS}/predict/{{method}}/{{target}}/{{shard}}/counts.json",
        shown=f"{LS}/predict/{{method}}/{{target}}/{{shard}}/shown.h5",
    log:
        f"{LARVSEG_LOGS}/{{split}}/predict.{{method}}.{{target}}.{{shard}}.log",
    benchmark:
        f"{LARVSEG_BENCHMARKS}/{{split}}/predict.{{method}}.{{target}}.{{shard}}.tsv"
    wildcard_constraints:
        method=one_of(LARVSEG_METHODS),
        target=one_of(LARVSEG_TARGETS),
    conda:
        "../envs/anyshot.yaml"
    threads: 4
    resources:
        **need(gpu=settings.gpus.of("larvseg_predict"), megabytes=8000, minutes=480),
    params:
        **SHARD,
        options=options("larvseg.predict"),
    shell:
        stage(
            "larvseg/predict.py", "manifest classes vocabulary network", "labels counts shown", sharded=True
        )


rule larvseg_compactness:
    input:
        **LARVSEG_TARGET,
        network=f"{LS}/attentive/model.safetensors",
    output:
        compactness=f"{LS}/compactness.json",
    log:
        f"{LARVSEG_LOGS}/{{split}}/compactness.log",
    benchmark:
        f"{LARVSEG_BENCHMARKS}/{{split}}/compactness.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 4
    resources:
        **need(gpu=settings.gpus.of("larvseg_compactness"), megabytes=8000, minutes=480),
    params:
        options=options("larvseg.compactness"),
        seed=settings.seed,
    shell:
        stage("larvseg/compactness.py", "manifest classes vocabulary network", "compactness", seed=True)


rule larvseg_segment_21k:
    input:
        **LARVSEG_LISTS,
        manifest=f"{R}/data/{settings.larvseg.segment_21k.data}/manifest.csv",
        network=larvseg_network,
    output:
        labels=f"{LS}/segment_21k/labels.csv",
        classes=f"{LS}/segment_21k/classes.csv",
        segments=f"{LS}/segment_21k/segments.csv",
    log:
        f"{LARVSEG_LOGS}/{{split}}/segment_21k.log",
    benchmark:
        f"{LARVSEG_BENCHMARKS}/{{split}}/segment_21k.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 4
    resources:
        **need(gpu=settings.gpus.of("larvseg_segment_21k"), megabytes=16000, minutes=1440),
    params:
        options=options("larvseg.segment_21k"),
    shell:
        stage(
            "larvseg/segment_21k.py",
            "manifest classes vocabulary network",
            "labels classes segments",
        )


rule larvseg_evaluate:
    input:
        **LARVSEG_TARGET,
        mapping=f"{LS}/vocabulary/mapping.json",
        counts=larvseg_counts,
    output:
        miou=f"{LS}/miou.json",
    log:
        f"{LARVSEG_LOGS}/{{split}}/evaluate.log",
    benchmark:
        f"{LARVSEG_BENCHMARKS}/{{split}}/evaluate.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 1
    resources:
        **need(gpu=0, megabytes=2000, minutes=10),
    params:
        options=options("larvseg.evaluate"),
    shell:
        stage("larvseg/evaluate.py", "manifest classes vocabulary mapping counts", "miou")


rule larvseg_summary:
    input:
        miou=expand(f"{LS}/miou.json", split=settings.larvseg.built()),
    output:
        summary=report(
            f"{LARVSEG}/summary.csv",
            caption="../workflow/report/summary.rst",
            category="LarvSeg",
            labels={"split": "all", "result": "summary"},
        ),
    log:
        f"{LARVSEG_LOGS}/summary.log",
    benchmark:
        f"{LARVSEG_BENCHMARKS}/summary.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 1
    resources:
        **need(gpu=0, megabytes=1000, minutes=10),
    params:
        options=options("larvseg.summary"),
    shell:
        stage("larvseg/summary.py", "miou", "summary")


# Every experiment of LarvSeg.
rule larvseg_all:
    input:
        rules.larvseg_summary.output.summary,
        rules.larvseg_summary.input.miou,
        larvseg_compactness(settings.larvseg.built()),
        larvseg_segmented(settings.larvseg.built()),
