# SimFormer (NeurIPS 2022), its baselines and ablations. One stage, one name: rule simformer_joint, script
# workflow/scripts/simformer/joint.py, options class anyshot.simformer.options.Joint, configuration key simformer.joint.
# The wildcard {method} is a variant of the joint training, or `retrained`.


include: "../workflow/simformer.smk"


rule simformer_pairs:
    input:
        **SIMFORMER_DATA,
    output:
        pairs=f"{SF}/pairs/pairs.json",
    log:
        f"{SIMFORMER_LOGS}/{{split}}/pairs.log",
    benchmark:
        f"{SIMFORMER_BENCHMARKS}/{{split}}/pairs.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 1
    resources:
        **need(gpu=0, megabytes=1000, minutes=30),
    params:
        options=options("simformer.pairs"),
    shell:
        stage("simformer/pairs.py", "manifest classes", "pairs")


rule simformer_joint:
    input:
        **SIMFORMER_DATA,
        pairs=f"{SF}/pairs/pairs.json",
    output:
        **network(f"{SF}/joint/{{method}}"),
    log:
        f"{SIMFORMER_LOGS}/{{split}}/joint.{{method}}.log",
    benchmark:
        f"{SIMFORMER_BENCHMARKS}/{{split}}/joint.{{method}}.tsv"
    wildcard_constraints:
        method=one_of(SIMFORMER_VARIANTS),
    conda:
        "../envs/anyshot.yaml"
    threads: 8
    resources:
        **need(gpu=settings.gpus.of("simformer_joint"), megabytes=32000, minutes=2880),
    params:
        options=options("simformer.joint"),
        seed=settings.seed,
    shell:
        stage("simformer/joint.py", "manifest classes pairs", "weights card curve", seed=True)


rule simformer_pseudo_label:
    input:
        **SIMFORMER_DATA,
        pairs=f"{SF}/pairs/pairs.json",
        joint=f"{SF}/joint/full/model.safetensors",
    output:
        labels=f"{SF}/pseudo_label/{{shard}}/labels.csv",
    log:
        f"{SIMFORMER_LOGS}/{{split}}/pseudo_label.{{shard}}.log",
    benchmark:
        f"{SIMFORMER_BENCHMARKS}/{{split}}/pseudo_label.{{shard}}.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 4
    resources:
        **need(gpu=settings.gpus.of("simformer_pseudo_label"), megabytes=8000, minutes=480),
    params:
        **SHARD,
        options=options("simformer.pseudo_label"),
    shell:
        stage("simformer/pseudo_label.py", "manifest classes pairs joint", "labels", sharded=True)


rule simformer_retrain:
    input:
        **SIMFORMER_DATA,
        pairs=f"{SF}/pairs/pairs.json",
        pseudo_label=SIMFORMER_PSEUDO,
    output:
        **network(f"{SF}/retrain"),
    log:
        f"{SIMFORMER_LOGS}/{{split}}/retrain.log",
    benchmark:
        f"{SIMFORMER_BENCHMARKS}/{{split}}/retrain.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 8
    resources:
        **need(gpu=settings.gpus.of("simformer_retrain"), megabytes=32000, minutes=2880),
    params:
        options=options("simformer.retrain"),
        seed=settings.seed,
    shell:
        stage("simformer/retrain.py", "manifest classes pairs pseudo_label", "weights card curve", seed=True)


rule simformer_predict:
    input:
        **SIMFORMER_DATA,
        network=simformer_network,
    output:
        labels=f"{SF}/predict/{{method}}/{{shard}}/labels.csv",
        counts=f"{SF}/predict/{{method}}/{{shard}}/counts.json",
        shown=f"{SF}/predict/{{method}}/{{shard}}/shown.h5",
    log:
        f"{SIMFORMER_LOGS}/{{split}}/predict.{{method}}.{{shard}}.log",
    benchmark:
        f"{SIMFORMER_BENCHMARKS}/{{split}}/predict.{{method}}.{{shard}}.tsv"
    wildcard_constraints:
        method=one_of([*SIMFORMER_VARIANTS, RETRAINED]),
    conda:
        "../envs/anyshot.yaml"
    threads: 4
    resources:
        **need(gpu=settings.gpus.of("simformer_predict"), megabytes=8000, minutes=240),
    params:
        **SHARD,
        options=options("simformer.predict"),
    shell:
        stage("simformer/predict.py", "manifest classes network", "labels counts shown", sharded=True)


rule simformer_evaluate:
    input:
        **SIMFORMER_DATA,
        counts=SIMFORMER_COUNTS,
    output:
        miou=f"{SF}/miou.json",
    log:
        f"{SIMFORMER_LOGS}/{{split}}/evaluate.log",
    benchmark:
        f"{SIMFORMER_BENCHMARKS}/{{split}}/evaluate.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 1
    resources:
        **need(gpu=0, megabytes=1000, minutes=10),
    params:
        options=options("simformer.evaluate"),
    shell:
        stage("simformer/evaluate.py", "manifest classes counts", "miou")


rule simformer_summary:
    input:
        miou=expand(f"{SF}/miou.json", split=settings.simformer.splits),
    output:
        summary=report(
            f"{SIMFORMER}/summary.csv",
            caption="../workflow/report/summary.rst",
            category="SimFormer",
            labels={"split": "all", "result": "summary"},
        ),
    log:
        f"{SIMFORMER_LOGS}/summary.log",
    benchmark:
        f"{SIMFORMER_BENCHMARKS}/summary.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 1
    resources:
        **need(gpu=0, megabytes=1000, minutes=10),
    params:
        options=options("simformer.summary"),
    shell:
        stage("simformer/summary.py", "miou", "summary")


# Every enabled split of SimFormer.
rule simformer_all:
    input:
        rules.simformer_summary.output.summary,
        rules.simformer_summary.input.miou,
