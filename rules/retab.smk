# RETAB (BMVC 2022) and its baseline PSA. One stage, one name: rule retab_cam, script workflow/scripts/retab/cam.py,
# options class anyshot.retab.options.Cam, configuration key retab.cam. What no split changes lies under `shared`.


include: "../workflow/retab.smk"


rule retab_split:
    input:
        **M,
    output:
        samples=f"{S}/split/samples.csv",
        split=f"{S}/split/split.json",
    log:
        f"{RETAB_LOGS}/{{split}}/split.log",
    benchmark:
        f"{RETAB_BENCHMARKS}/{{split}}/split.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 2
    resources:
        **need(gpu=0, megabytes=2000, minutes=20),
    params:
        options=options("retab.split"),
    shell:
        stage("retab/split.py", "manifest classes", "samples split")


rule retab_classifier:
    input:
        **M,
    output:
        **network(f"{C}/classifier"),
    log:
        f"{RETAB_LOGS}/shared/classifier.log",
    benchmark:
        f"{RETAB_BENCHMARKS}/shared/classifier.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 8
    resources:
        **need(gpu=settings.gpus.of("retab_classifier"), megabytes=16000, minutes=720),
    params:
        options=options("retab.classifier"),
        seed=settings.seed,
    shell:
        stage("retab/classifier.py", "manifest classes", "weights card curve", seed=True)


rule retab_cam:
    input:
        **M,
        classifier=f"{C}/classifier/model.safetensors",
    output:
        store=f"{C}/cam/{{shard}}.h5",
    log:
        f"{RETAB_LOGS}/shared/cam.{{shard}}.log",
    benchmark:
        f"{RETAB_BENCHMARKS}/shared/cam.{{shard}}.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 4
    resources:
        **need(gpu=settings.gpus.of("retab_cam"), megabytes=8000, minutes=240),
    params:
        **SHARD,
        options=options("retab.cam"),
    shell:
        stage("retab/cam.py", "manifest classes classifier", "store", sharded=True)


rule retab_crf_label:
    input:
        **M,
        cam=f"{C}/cam/{{shard}}.h5",
    output:
        store=f"{C}/crf_label/{{shard}}.h5",
    log:
        f"{RETAB_LOGS}/shared/crf_label.{{shard}}.log",
    benchmark:
        f"{RETAB_BENCHMARKS}/shared/crf_label.{{shard}}.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 8
    resources:
        **need(gpu=0, megabytes=8000, minutes=240),
    params:
        **SHARD,
        options=options("retab.crf_label"),
    shell:
        stage("retab/crf_label.py", "manifest classes cam", "store", sharded=True)


rule retab_boundary:
    input:
        **M,
        samples=f"{S}/split/samples.csv",
    output:
        **network(f"{S}/boundary"),
    log:
        f"{RETAB_LOGS}/{{split}}/boundary.log",
    benchmark:
        f"{RETAB_BENCHMARKS}/{{split}}/boundary.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 8
    resources:
        **need(gpu=settings.gpus.of("retab_boundary"), megabytes=16000, minutes=480),
    params:
        options=options("retab.boundary"),
        seed=settings.seed,
    shell:
        stage(
            "retab/boundary.py",
            "manifest classes samples",
            "weights card curve",
            seed=True,
        )


rule retab_boundary_map:
    input:
        **M,
        boundary=f"{S}/boundary/model.safetensors",
    output:
        store=f"{S}/boundary_map/{{shard}}.h5",
    log:
        f"{RETAB_LOGS}/{{split}}/boundary_map.{{shard}}.log",
    benchmark:
        f"{RETAB_BENCHMARKS}/{{split}}/boundary_map.{{shard}}.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 4
    resources:
        **need(gpu=settings.gpus.of("retab_boundary_map"), megabytes=8000, minutes=120),
    params:
        **SHARD,
        options=options("retab.boundary_map"),
    shell:
        stage("retab/boundary_map.py", "manifest classes boundary", "store", sharded=True)


rule retab_affinity:
    input:
        **M,
        samples=retab_affinity_input(["mixed", "gt_only"], f"{S}/split/samples.csv"),
        crf_label=retab_affinity_input(["mixed", "crf_only"], *sharded(f"{C}/crf_label/{{shard}}.h5")),
        boundary_map=retab_affinity_input(["mixed"], *sharded(f"{S}/boundary_map/{{shard}}.h5")),
    output:
        **network(f"{S}/affinity/{{labels}}"),
    log:
        f"{RETAB_LOGS}/{{split}}/affinity.{{labels}}.log",
    benchmark:
        f"{RETAB_BENCHMARKS}/{{split}}/affinity.{{labels}}.tsv"
    wildcard_constraints:
        split=SPLITS_AND_SHARED,
    conda:
        "../envs/anyshot.yaml"
    threads: 8
    resources:
        **need(gpu=settings.gpus.of("retab_affinity"), megabytes=16000, minutes=720),
    params:
        options=options("retab.affinity"),
        seed=settings.seed,
    shell:
        stage(
            "retab/affinity.py",
            "manifest classes samples crf_label boundary_map",
            "weights card curve",
            seed=True,
        )


rule retab_affinity_map:
    input:
        **M,
        affinity=f"{S}/affinity/{{labels}}/model.safetensors",
    output:
        store=f"{S}/affinity_map/{{labels}}/{{shard}}.h5",
    log:
        f"{RETAB_LOGS}/{{split}}/affinity_map.{{labels}}.{{shard}}.log",
    benchmark:
        f"{RETAB_BENCHMARKS}/{{split}}/affinity_map.{{labels}}.{{shard}}.tsv"
    wildcard_constraints:
        split=SPLITS_AND_SHARED,
    conda:
        "../envs/anyshot.yaml"
    threads: 4
    resources:
        **need(gpu=settings.gpus.of("retab_affinity_map"), megabytes=8000, minutes=120),
    params:
        **SHARD,
        options=options("retab.affinity_map"),
    shell:
        stage("retab/affinity_map.py", "manifest classes affinity", "store", sharded=True)


rule retab_random_walk:
    input:
        **M,
        cam=f"{C}/cam/{{shard}}.h5",
        affinity_map=retab_affinity_of,
        boundary_map=retab_walk_boundary,
    output:
        store=f"{S}/random_walk/{{walk}}/{{shard}}.h5",
    log:
        f"{RETAB_LOGS}/{{split}}/random_walk.{{walk}}.{{shard}}.log",
    benchmark:
        f"{RETAB_BENCHMARKS}/{{split}}/random_walk.{{walk}}.{{shard}}.tsv"
    wildcard_constraints:
        split=SPLITS_AND_SHARED,
    conda:
        "../envs/anyshot.yaml"
    threads: 8
    resources:
        **need(gpu=0, megabytes=8000, minutes=240),
    params:
        **SHARD,
        options=options("retab.random_walk"),
    shell:
        stage(
            "retab/random_walk.py",
            "manifest classes cam affinity_map boundary_map",
            "store",
            sharded=True,
        )


rule retab_pseudo_label:
    input:
        **M,
        samples=f"{S}/split/samples.csv",
        random_walk=f"{S}/random_walk/retab/{{shard}}.h5",
    output:
        labels=f"{S}/pseudo_label/{{shard}}/labels.csv",
    log:
        f"{RETAB_LOGS}/{{split}}/pseudo_label.{{shard}}.log",
    benchmark:
        f"{RETAB_BENCHMARKS}/{{split}}/pseudo_label.{{shard}}.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 4
    resources:
        **need(gpu=0, megabytes=4000, minutes=60),
    params:
        **SHARD,
        options=options("retab.pseudo_label"),
    shell:
        stage(
            "retab/pseudo_label.py",
            "manifest classes samples random_walk",
            "labels",
            sharded=True,
        )


rule retab_segmentation:
    input:
        **M,
        samples=f"{S}/split/samples.csv",
        pseudo_label=sharded(f"{S}/pseudo_label/{{shard}}/labels.csv"),
    output:
        **network(f"{S}/segmentation"),
    log:
        f"{RETAB_LOGS}/{{split}}/segmentation.log",
    benchmark:
        f"{RETAB_BENCHMARKS}/{{split}}/segmentation.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 8
    resources:
        **need(gpu=settings.gpus.of("retab_segmentation"), megabytes=16000, minutes=1440),
    params:
        options=options("retab.segmentation"),
        seed=settings.seed,
    shell:
        stage(
            "retab/segmentation.py",
            "manifest classes samples pseudo_label",
            "weights card curve",
            seed=True,
        )


rule retab_predict:
    input:
        **M,
        segmentation=f"{S}/segmentation/model.safetensors",
    output:
        labels=f"{S}/predict/{{shard}}/labels.csv",
    log:
        f"{RETAB_LOGS}/{{split}}/predict.{{shard}}.log",
    benchmark:
        f"{RETAB_BENCHMARKS}/{{split}}/predict.{{shard}}.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 4
    resources:
        **need(gpu=settings.gpus.of("retab_predict"), megabytes=8000, minutes=120),
    params:
        **SHARD,
        options=options("retab.predict"),
    shell:
        stage("retab/predict.py", "manifest classes segmentation", "labels", sharded=True)


rule retab_score_maps:
    input:
        **M,
        samples=f"{S}/split/samples.csv",
        split=f"{S}/split/split.json",
        cam=sharded(f"{C}/cam/{{shard}}.h5"),
        psa=psa(f"{C}/random_walk/psa/{{shard}}.h5"),
        retab=sharded(f"{S}/random_walk/retab/{{shard}}.h5"),
        pseudo_label=sharded(f"{S}/pseudo_label/{{shard}}/labels.csv"),
    output:
        scores=f"{S}/score_maps/scores.json",
        images=f"{S}/score_maps/images.csv",
    log:
        f"{RETAB_LOGS}/{{split}}/score_maps.log",
    benchmark:
        f"{RETAB_BENCHMARKS}/{{split}}/score_maps.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 4
    resources:
        **need(gpu=0, megabytes=4000, minutes=60),
    params:
        options=options("retab.score_maps"),
    shell:
        stage(
            "retab/score_maps.py",
            "manifest classes samples split cam psa retab pseudo_label",
            "scores images",
        )


rule retab_evaluate:
    input:
        **M,
        samples=f"{S}/split/samples.csv",
        split=f"{S}/split/split.json",
        predict=sharded(f"{S}/predict/{{shard}}/labels.csv"),
        scores=f"{S}/score_maps/scores.json",
    output:
        miou=report(
            f"{S}/miou.json",
            caption="../workflow/report/miou.rst",
            category="RETAB",
            labels={"split": "{split}", "result": "segmentation"},
        ),
        images=f"{S}/evaluate/images.csv",
    log:
        f"{RETAB_LOGS}/{{split}}/evaluate.log",
    benchmark:
        f"{RETAB_BENCHMARKS}/{{split}}/evaluate.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 4
    resources:
        **need(gpu=0, megabytes=4000, minutes=60),
    params:
        options=options("retab.evaluate"),
    shell:
        stage(
            "retab/evaluate.py",
            "manifest classes samples split predict scores",
            "miou images",
        )


rule retab_summary:
    input:
        miou=expand(f"{S}/miou.json", split=settings.retab.folds),
        scores=expand(f"{S}/score_maps/scores.json", split=settings.retab.folds),
    output:
        summary=report(
            f"{RETAB}/summary.csv",
            caption="../workflow/report/summary.rst",
            category="RETAB",
            labels={"split": "all", "result": "summary"},
        ),
    log:
        f"{RETAB_LOGS}/summary.log",
    benchmark:
        f"{RETAB_BENCHMARKS}/summary.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 1
    resources:
        **need(gpu=0, megabytes=1000, minutes=10),
    params:
        options=options("retab.summary"),
    shell:
        stage("retab/summary.py", "miou scores", "summary")


rule retab_all:
    input:
        [rules.retab_summary.output.summary, rules.retab_summary.input.miou],
