# Folders of RAML, and which of its artifacts a stage needs.

RAML = f"{R}/raml"
O = f"{RAML}/{{split}}"
RAML_LOGS = f"{LOGS}/raml"
RAML_BENCHMARKS = f"{BENCHMARKS}/raml"
RAML_DATA = {
    "manifest": f"{R}/data/{settings.raml.data}/manifest.csv",
    "classes": f"{R}/data/{settings.raml.data}/classes.csv",
}
RAML_COUNTS = expand(
    f"{O}/open_world/{{shard}}/counts.json",
    shard=[f"{number}of{settings.raml.shards}" for number in range(1, settings.raml.shards + 1)],
    allow_missing=True,
)

# Every bank of a split: each number of shots with each draw of support images.
BANKS = [f"{O}/novel_bank/{shot}shot_seed{seed}/bank.json" for shot, seed in settings.raml.banks()]
