# One page about everything that was run, for a browser without a network.


rule report:
    input:
        **reported_files(),
    output:
        page=report(f"{R}/report.html", caption="../workflow/report/page.rst", category="Page"),
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{BENCHMARKS}/report.tsv"
    conda:
        "../envs/anyshot.yaml"
    threads: 2
    resources:
        **need(gpu=0, megabytes=4000, minutes=30),
    params:
        options=options("report.report"),
    shell:
        stage("report/report.py", " ".join(reported_files()), "page")
