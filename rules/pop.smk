# POP (CVPR 2023), its baselines and ablations. One stage, one name: rule pop_base, script
# workflow/scripts/pop/base.py, options class anyshot.pop.options.Base, configuration key pop.base.


include: "../workflow/pop.smk"


rule pop_index:
    input:
        **POP_DATA,
    output:
        index=f"{POP}/shared/index/index.csv",
    log:
        f"{POP_LOGS}/shared/index.log",
    benchmark:
        f"{POP_BENCHMARKS}/shared/index.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 4
    resources:
        **need(gpu=0, megabytes=2000, minutes=60),
    params:
        options=options("pop.index"),
    shell:
        stage("pop/index.py", "manifest classes", "index")


rule pop_base:
    input:
        **POP_DATA,
        index=f"{POP}/shared/index/index.csv",
    output:
        **network(f"{F}/base"),
    log:
        f"{POP_LOGS}/{{split}}/base.log",
    benchmark:
        f"{POP_BENCHMARKS}/{{split}}/base.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: POP_THREADS
    resources:
        **need(gpu=settings.gpus.of("pop_base"), megabytes=24000, minutes=1440),
    params:
        options=options("pop.base"),
        seed=settings.seed,
    shell:
        stage("pop/base.py", "manifest classes index", "weights card curve", seed=True)


rule pop_support:
    input:
        **POP_DATA,
        index=f"{POP}/shared/index/index.csv",
    output:
        supports=f"{F}/support/{{shot}}shot_seed{{support}}.json",
    log:
        f"{POP_LOGS}/{{split}}/support.{{shot}}shot_seed{{support}}.log",
    benchmark:
        f"{POP_BENCHMARKS}/{{split}}/support.{{shot}}shot_seed{{support}}.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 1
    resources:
        **need(gpu=0, megabytes=1000, minutes=10),
    params:
        options=options("pop.support"),
    shell:
        stage("pop/support.py", "manifest classes index", "supports")


rule pop_features:
    input:
        **POP_DATA,
        index=f"{POP}/shared/index/index.csv",
        base=f"{F}/base/model.safetensors",
    output:
        features=f"{F}/features/features.h5",
    log:
        f"{POP_LOGS}/{{split}}/features.log",
    benchmark:
        f"{POP_BENCHMARKS}/{{split}}/features.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: POP_THREADS
    resources:
        **need(gpu=settings.gpus.of("pop_features"), megabytes=8000, minutes=120),
    params:
        options=options("pop.features"),
    shell:
        stage("pop/features.py", "manifest classes index base", "features")


rule pop_views:
    input:
        **POP_DATA,
        base=f"{F}/base/model.safetensors",
        supports=f"{F}/support/{{shot}}shot_seed{{support}}.json",
    output:
        views=f"{F}/views/{{shot}}shot_seed{{support}}.h5",
    log:
        f"{POP_LOGS}/{{split}}/views.{{shot}}shot_seed{{support}}.log",
    benchmark:
        f"{POP_BENCHMARKS}/{{split}}/views.{{shot}}shot_seed{{support}}.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: POP_THREADS
    resources:
        **need(gpu=settings.gpus.of("pop_views"), megabytes=8000, minutes=60),
    params:
        options=options("pop.views"),
        seed=settings.seed,
    shell:
        stage("pop/views.py", "manifest classes base supports", "views", seed=True)


rule pop_novel_update:
    input:
        **POP_DATA,
        index=f"{POP}/shared/index/index.csv",
        base=f"{F}/base/model.safetensors",
        supports=f"{F}/support/{{shot}}shot_seed{{support}}.json",
        features=pop_features,
        views=pop_views,
    output:
        **network(HEAD),
    log:
        f"{POP_LOGS}/{{split}}/novel_update.{{method}}.{{shot}}shot_seed{{support}}.log",
    benchmark:
        f"{POP_BENCHMARKS}/{{split}}/novel_update.{{method}}.{{shot}}shot_seed{{support}}.tsv"
    wildcard_constraints:
        method="pop|finetune|prototype|no_orthogonality|no_residual",
    conda:
        "../envs/anyshot.yaml"
    threads: 1 if settings.pop.novel_update.mode == "cached" else 4
    resources:
        **need(gpu=settings.gpus.of("pop_novel_update"), megabytes=16000, minutes=720),
    params:
        options=options("pop.novel_update"),
        seed=settings.seed,
    shell:
        stage(
            "pop/novel_update.py",
            "manifest classes index base supports features views",
            "weights card curve",
            seed=True,
        )


rule pop_predict:
    input:
        **POP_DATA,
        base=f"{F}/base/model.safetensors",
        heads=pop_heads,
    output:
        labels=f"{F}/predict/{{shard}}/labels.csv",
        counts=f"{F}/predict/{{shard}}/counts.json",
        shown=f"{F}/predict/{{shard}}/shown.h5",
    log:
        f"{POP_LOGS}/{{split}}/predict.{{shard}}.log",
    benchmark:
        f"{POP_BENCHMARKS}/{{split}}/predict.{{shard}}.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: POP_THREADS
    resources:
        **need(gpu=settings.gpus.of("pop_predict"), megabytes=8000, minutes=240),
    params:
        **SHARD,
        options=options("pop.predict"),
    shell:
        stage("pop/predict.py", "manifest classes base heads", "labels counts shown", sharded=True)


rule pop_evaluate:
    input:
        **POP_DATA,
        counts=POP_COUNTS,
    output:
        miou=f"{F}/miou.json",
    log:
        f"{POP_LOGS}/{{split}}/evaluate.log",
    benchmark:
        f"{POP_BENCHMARKS}/{{split}}/evaluate.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 1
    resources:
        **need(gpu=0, megabytes=1000, minutes=10),
    params:
        options=options("pop.evaluate"),
    shell:
        stage("pop/evaluate.py", "manifest classes counts", "miou")


rule pop_summary:
    input:
        miou=expand(f"{F}/miou.json", split=settings.pop.folds),
    output:
        summary=report(
            f"{POP}/summary.csv",
            caption="../workflow/report/summary.rst",
            category="POP",
            labels={"split": "all", "result": "summary"},
        ),
    log:
        f"{POP_LOGS}/summary.log",
    benchmark:
        f"{POP_BENCHMARKS}/summary.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 1
    resources:
        **need(gpu=0, megabytes=1000, minutes=10),
    params:
        options=options("pop.summary"),
    shell:
        stage("pop/summary.py", "miou", "summary")


# Every enabled split of POP.
rule pop_all:
    input:
        rules.pop_summary.output.summary,
        rules.pop_summary.input.miou,
