# RAML (IJCAI 2022) and its baselines. One stage, one name: rule raml_metric, script workflow/scripts/raml/metric.py,
# options class anyshot.raml.options.Metric, configuration key raml.metric.


include: "../workflow/raml.smk"


rule raml_split:
    input:
        classes=RAML_DATA["classes"],
    output:
        split=f"{O}/split/split.json",
    log:
        f"{RAML_LOGS}/{{split}}/split.log",
    benchmark:
        f"{RAML_BENCHMARKS}/{{split}}/split.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 1
    resources:
        **need(gpu=0, megabytes=1000, minutes=10),
    params:
        options=options("raml.split"),
    shell:
        stage("raml/split.py", "classes", "split")


rule raml_closed_set:
    input:
        **RAML_DATA,
        split=f"{O}/split/split.json",
    output:
        **network(f"{O}/closed_set"),
    log:
        f"{RAML_LOGS}/{{split}}/closed_set.log",
    benchmark:
        f"{RAML_BENCHMARKS}/{{split}}/closed_set.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 8
    resources:
        **need(gpu=settings.gpus.of("raml_closed_set"), megabytes=24000, minutes=1440),
    params:
        options=options("raml.closed_set"),
        seed=settings.seed,
    shell:
        stage(
            "raml/closed_set.py",
            "manifest classes split",
            "weights card curve",
            seed=True,
        )


rule raml_meta_channel:
    input:
        **RAML_DATA,
        split=f"{O}/split/split.json",
        closed_set=f"{O}/closed_set/model.safetensors",
    output:
        **network(f"{O}/meta_channel"),
    log:
        f"{RAML_LOGS}/{{split}}/meta_channel.log",
    benchmark:
        f"{RAML_BENCHMARKS}/{{split}}/meta_channel.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 8
    resources:
        **need(gpu=settings.gpus.of("raml_meta_channel"), megabytes=24000, minutes=720),
    params:
        options=options("raml.meta_channel"),
        seed=settings.seed,
    shell:
        stage(
            "raml/meta_channel.py",
            "manifest classes split closed_set",
            "weights card curve",
            seed=True,
        )


rule raml_metric:
    input:
        **RAML_DATA,
        split=f"{O}/split/split.json",
        meta_channel=f"{O}/meta_channel/model.safetensors",
    output:
        **network(f"{O}/metric"),
    log:
        f"{RAML_LOGS}/{{split}}/metric.log",
    benchmark:
        f"{RAML_BENCHMARKS}/{{split}}/metric.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 8
    resources:
        **need(gpu=settings.gpus.of("raml_metric"), megabytes=16000, minutes=720),
    params:
        options=options("raml.metric"),
        seed=settings.seed,
    shell:
        stage(
            "raml/metric.py",
            "manifest classes split meta_channel",
            "weights card curve",
            seed=True,
        )


rule raml_novel_bank:
    input:
        **RAML_DATA,
        split=f"{O}/split/split.json",
        metric=f"{O}/metric/model.safetensors",
    output:
        bank=f"{O}/novel_bank/{{shot}}shot_seed{{support}}/bank.json",
    log:
        f"{RAML_LOGS}/{{split}}/novel_bank.{{shot}}shot_seed{{support}}.log",
    benchmark:
        f"{RAML_BENCHMARKS}/{{split}}/novel_bank.{{shot}}shot_seed{{support}}.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 4
    resources:
        **need(gpu=settings.gpus.of("raml_novel_bank"), megabytes=8000, minutes=30),
    params:
        options=options("raml.novel_bank"),
    shell:
        stage("raml/novel_bank.py", "manifest classes split metric", "bank")


rule raml_open_world:
    input:
        **RAML_DATA,
        split=f"{O}/split/split.json",
        metric=f"{O}/metric/model.safetensors",
        banks=BANKS,
    output:
        labels=f"{O}/open_world/{{shard}}/labels.csv",
        regions=f"{O}/open_world/{{shard}}/regions.csv",
        counts=f"{O}/open_world/{{shard}}/counts.json",
        shown=f"{O}/open_world/{{shard}}/shown.h5",
    log:
        f"{RAML_LOGS}/{{split}}/open_world.{{shard}}.log",
    benchmark:
        f"{RAML_BENCHMARKS}/{{split}}/open_world.{{shard}}.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 4
    resources:
        **need(gpu=settings.gpus.of("raml_open_world"), megabytes=8000, minutes=120),
    params:
        **SHARD,
        options=options("raml.open_world"),
    shell:
        stage(
            "raml/open_world.py",
            "manifest classes split metric banks",
            "labels regions counts shown",
            sharded=True,
        )


rule raml_evaluate:
    input:
        **RAML_DATA,
        split=f"{O}/split/split.json",
        counts=RAML_COUNTS,
    output:
        miou=f"{O}/miou.json",
    log:
        f"{RAML_LOGS}/{{split}}/evaluate.log",
    benchmark:
        f"{RAML_BENCHMARKS}/{{split}}/evaluate.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 1
    resources:
        **need(gpu=0, megabytes=1000, minutes=10),
    params:
        options=options("raml.evaluate"),
    shell:
        stage("raml/evaluate.py", "manifest classes split counts", "miou")


rule raml_anomaly:
    input:
        **RAML_DATA,
        split=f"{O}/split/split.json",
        metric=f"{O}/metric/model.safetensors",
    output:
        anomaly=f"{O}/anomaly.json",
    log:
        f"{RAML_LOGS}/{{split}}/anomaly.log",
    benchmark:
        f"{RAML_BENCHMARKS}/{{split}}/anomaly.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 4
    resources:
        **need(gpu=settings.gpus.of("raml_anomaly"), megabytes=16000, minutes=60),
    params:
        options=options("raml.anomaly"),
    shell:
        stage("raml/anomaly.py", "manifest classes split metric", "anomaly")


rule raml_summary:
    input:
        miou=expand(f"{O}/miou.json", split=settings.raml.splits),
    output:
        summary=report(
            f"{RAML}/summary.csv",
            caption="../workflow/report/summary.rst",
            category="RAML",
            labels={"split": "all", "result": "summary"},
        ),
    log:
        f"{RAML_LOGS}/summary.log",
    benchmark:
        f"{RAML_BENCHMARKS}/summary.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 1
    resources:
        **need(gpu=0, megabytes=1000, minutes=10),
    params:
        options=options("raml.summary"),
    shell:
        stage("raml/summary.py", "miou", "summary")


# Every enabled split of RAML.
rule raml_all:
    input:
        rules.raml_summary.output.summary,
        rules.raml_summary.input.miou,
        expand(f"{O}/anomaly.json", split=settings.raml.splits),
