# One door for all data: manifest, class table and card of every data set under `data:`.


rule data_prepare:
    output:
        manifest=f"{R}/data/{{name}}/manifest.csv",
        classes=f"{R}/data/{{name}}/classes.csv",
        card=f"{R}/data/{{name}}/card.json",
    log:
        f"{LOGS}/data/{{name}}.log",
    benchmark:
        f"{BENCHMARKS}/data/{{name}}.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 4
    resources:
        **need(gpu=0, megabytes=4000, minutes=60),
    params:
        options=options("data.prepare"),
    shell:
        stage("data/prepare.py", "", "manifest classes card")


# Only when asked for by name: PASCAL VOC 2012 and SBD into the folder `download.root`.
rule data_download:
    output:
        report=f"{R}/data/download.json",
    log:
        f"{LOGS}/data/download.log",
    benchmark:
        f"{BENCHMARKS}/data/download.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 1
    resources:
        **need(gpu=0, megabytes=2000, minutes=600),
    params:
        options=options("data.download"),
    shell:
        stage("data/download.py", "", "report")
