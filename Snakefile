# anyshot: semantic segmentation when most classes have no pixel labels.
#
#   snakemake --cores 8 --resources=gpu=4 results/retab/fold0/miou.json
#   snakemake --profile slurm all_folds
# The configuration is config.yaml; overlays for --configfile lie in config/. Stages of a system: rules/<system>.smk.
from snakemake.utils import min_version

min_version("9.27")


configfile: "config.yaml"


include: "workflow/common.smk"


report: "workflow/report/workflow.rst"


wildcard_constraints:
    name=one_of(settings.data),
    split=one_of(settings.every_split()),
    shard=r"\d+of\d+",
    labels="mixed|crf_only|gt_only",
    walk="retab|psa",
    shot=r"\d+",
    support=r"\d+",


# A cap such as --resources=gpu=4 counts the GPUs of one machine; on a cluster Slurm counts them itself.
resource_scopes:
    gpu="local",


localrules:
    all,
    all_folds,
    data_download,


# What `targets` in the configuration names.
rule all:
    default_target: True
    input:
        lambda wildcards: wanted(settings.targets),


# Every split of every enabled system.
rule all_folds:
    input:
        lambda wildcards: wanted(["all_folds"]),


include: "rules/data.smk"
include: "rules/retab.smk"
include: "rules/raml.smk"
include: "rules/pop.smk"
include: "rules/simformer.smk"
include: "rules/larvseg.smk"
include: "rules/report.smk"
