"""What the configuration accepts, and what it says about a mistake."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from anyshot import config
from anyshot.config import check_targets, load, merged
from anyshot.errors import ConfigError
from anyshot.larvseg.name_rules import read_rules
from anyshot.retab.system import FILLED_IN, STAGES, Retab

Content = dict[str, Any]


@pytest.fixture
def shipped(repository: Path) -> Content:
    return merged([repository / "config.yaml"])


def changed(content: Content, path: str, value: Any) -> Content:
    """`content` with one dotted key set."""
    result = copy.deepcopy(content)
    *groups, key = path.split(".")
    group = result
    for name in groups:
        group = group.setdefault(name, {})
    group[key] = value
    return result


def mistake(content: Content) -> str:
    with pytest.raises(ConfigError) as caught:
        load(content)
    return str(caught.value)


BAD: list[tuple[str, Any, list[str]]] = [
    # a misspelled key, at every depth
    ("retb", {}, ["retb: unknown key", 'did you mean "retab"?']),
    ("retab.affinty", {}, ["retab.affinty: unknown key", 'did you mean "affinity"?']),
    ("retab.affinity.radus", 5, ["retab.affinity.radus: unknown key", 'did you mean "radius"?', "allowed: "]),
    ("retab.predict.crf", {"step": 3}, ["retab.predict.crf.step: unknown key", 'did you mean "steps"?']),
    ("data.scenes.sise", 96, ["data.scenes.sise: unknown key", 'did you mean "size"?']),
    # a wrong type
    ("retab.affinity.radius", "five", ['retab.affinity.radius: found "five", expected an integer >= 2']),
    ("retab.affinity.radius", 5.5, ["retab.affinity.radius: found 5.5, expected an integer >= 2"]),
    ("retab.affinity.radius", "5", ['retab.affinity.radius: found "5"', "write 5,"]),
    ("retab.affinity.radius", None, ["retab.affinity.radius: found null, expected an integer >= 2"]),
    ("retab.affinity", 5, ["retab.affinity: found 5, expected a group of the keys"]),
    ("retab.folds", "fold0", ['retab.folds: found "fold0", expected a list (at least 1) of texts']),
    ("retab.cam.scales", [1.0, "2"], ['retab.cam.scales[1]: found "2", expected a number']),
    ("retab.cam.mirror", "yes", ['retab.cam.mirror: found "yes", expected true or false']),
    ("retab.cam.mirror", 1, ["retab.cam.mirror: found 1, expected true or false"]),
    ("data.scenes", 5, ["data.scenes", "found 5"]),
    ("data", [], ["data: found [], expected a mapping"]),
    ("seed", -1, ["seed: found -1, expected an integer >= 0"]),
    # a value that is not allowed
    ("retab.affinity.radius", 1, ["retab.affinity.radius: found 1, expected an integer >= 2"]),
    ("retab.boundary_map.threshold", 1.0, ["found 1.0, expected a number > 0 and < 1"]),
    ("retab.affinity.labels", "both", ['retab.affinity.labels: found "both"', '"mixed", "crf_only"']),
    ("retab.cam.scales", [], ["retab.cam.scales: found []", "at least 1"]),
    ("retab.classifier.long_side", [256], ["retab.classifier.long_side: found [256]", "exactly 2 items"]),
    ("retab.cam.output_stride", 9, ["retab.cam.output_stride: found 9, expected one of 8, 16, 32 or null"]),
    (
        "systems",
        ["retap"],
        ['systems[0]: found "retap", expected one of "retab", "raml", "pop", "simformer", "larvseg"'],
    ),
    (
        "data.scenes.reader",
        "scene",
        ['data.scenes.reader: found "scene", expected one of ade20k, ade20k_full, camvid'],
    ),
    ("data.mine", {"root": "x"}, ["data.mine.reader: not given, expected one of ade20k"]),
    ("data.mine", {"reader": "voc"}, ["data.mine.root: not given, expected text"]),
    ("data.a/b", {"reader": "scenes"}, ['data: found the name "a/b"']),
    # numbers that YAML reads as text, or as no number at all
    (
        "retab.classifier.optimiser.learning_rate",
        yaml.safe_load("1e-3"),
        ['retab.classifier.optimiser.learning_rate: found "1e-3"', "expected a number > 0", "write 0.001"],
    ),
    ("retab.random_walk.beta", yaml.safe_load(".inf"), ["retab.random_walk.beta"]),
    ("retab.random_walk.beta", yaml.safe_load(".nan"), ["retab.random_walk.beta"]),
    # names that do not exist
    ("retab.folds", ["fold0", "fold9"], ['retab.folds[1]: found "fold9"', "fold0, fold1, fold2, fold3"]),
    ("retab.folds", ["fold0", "fold0"], ['retab.folds: found "fold0" more than once']),
    ("retab.data", "scense", ['retab.data: found "scense"', 'did you mean "scenes"?']),
    ("retab.scheme", "pascal5i", ['retab.scheme: found "pascal5i"', 'did you mean "pascal_5i"?']),
    ("targets", ["all_fold"], ['targets[0]: found "all_fold"', 'did you mean "all_folds"?']),
    (
        "targets",
        ["results/retab/fold9/miou.json"],
        ["targets: results/retab/fold9/miou.json: there is no split"],
    ),
    # contradictions
    (
        "retab.novel_classes",
        {"mine": ["circle"]},
        ["retab: give exactly one of `scheme` and `novel_classes`"],
    ),
    ("retab.scheme", None, ["retab: give exactly one of `scheme` and `novel_classes`"]),
    ("retab.boundary_map.erosion", 4, ["retab.boundary_map: erosion must be 0 or odd, found 4"]),
    ("retab.cam.dataset", {"subsets": ["val"]}, ["retab: `cam.dataset` is filled in"]),
    (
        "pop.views.crop",
        96,
        ["pop: `views.crop` is 96, `features.size` 160: they must be equal"],
    ),
    ("simformer.variants", ["oracle"], ["simformer: `variants` lists ['oracle']: `full` must be among them"]),
    ("simformer.splits", ["split1", "split7"], ['simformer.splits[1]: found "split7"', "split1, split2"]),
    (
        "simformer.joint.network.heads",
        5,
        ["simformer.joint.network: `width` is 128, `heads` 5: it must be a multiple of them"],
    ),
    ("results", "a{b}", ['results: found "a{b}", expected a path without braces']),
]


@pytest.mark.parametrize(("path", "value", "parts"), BAD, ids=[f"{bad[0]}={bad[1]!r}"[:60] for bad in BAD])
def test_a_mistake_is_named_with_its_key_the_value_and_what_is_allowed(
    shipped: Content, path: str, value: Any, parts: list[str]
) -> None:
    text = mistake(changed(shipped, path, value))
    for part in parts:
        assert part in text
    assert "Traceback" not in text
    assert "pydantic" not in text


def test_own_splits_need_their_own_names(shipped: Content) -> None:
    own = changed(
        changed(shipped, "retab.scheme", None), "retab.novel_classes", {"mine": [], "shared": ["a"]}
    )
    text = mistake(own)
    assert "retab.novel_classes.mine: found []" in text
    assert 'not "shared"' in text
    assert 'retab.folds[0]: found "fold0", no such split; allowed: mine, shared' in text


def test_own_splits_give_their_classes_to_the_stage(shipped: Content) -> None:
    own = changed(
        changed(shipped, "retab.scheme", None), "retab.novel_classes", {"mine": ["圆 ; rm -rf ~", "b"]}
    )
    settings = load(changed(own, "retab.folds", ["mine"]))
    options = settings.stage("retab.split", split="mine")
    assert json.loads(options.canonical())["novel"] == ["圆 ; rm -rf ~", "b"]


def test_many_mistakes_are_told_at_once_but_ten_at_most(shipped: Content) -> None:
    content = shipped
    for number in range(14):
        content = changed(content, f"retab.cam.wrong{number}", 1)
    text = mistake(content)
    assert text.startswith("the configuration has 14 mistakes:")
    assert text.count("unknown key") == 10
    assert text.endswith("... and 4 more")


def test_an_empty_configuration_lacks_data() -> None:
    assert "data: not given, expected a mapping" in mistake({})


def test_a_stage_s_options_are_canonical(shipped: Content) -> None:
    """Equal options give equal text, whatever the order of keys; other stages' keys have no part in it."""
    text = load(shipped).stage("retab.cam").canonical()
    turned = {key: shipped[key] for key in reversed(list(shipped))}
    turned = changed(turned, "retab.affinity.radius", 4)
    assert load(turned).stage("retab.cam").canonical() == text
    assert STAGES["cam"].parse(text).canonical() == text


def test_unknown_stages_and_splits_are_errors(shipped: Content) -> None:
    settings = load(shipped)
    with pytest.raises(KeyError):
        settings.stage("retab.nothing")
    with pytest.raises(KeyError):
        settings.stage("other.cam")
    with pytest.raises(ConfigError, match="fold7"):
        settings.stage("retab.split", split="fold7")


def test_targets_of_other_splits_are_errors(shipped: Content) -> None:
    settings = load(shipped)
    check_targets(settings, ["--cores", "8", "results/retab/fold0/miou.json", "results/retab/summary.csv"])
    check_targets(settings, ["results/retab/shared/cam/1of2.h5", "elsewhere/retab/fold9/miou.json"])
    with pytest.raises(ConfigError, match="fold0, fold1, fold2, fold3"):
        check_targets(settings, ["results/retab/fold9/miou.json"])


def test_a_scheme_s_splits_can_be_built_when_they_are_not_enabled(shipped: Content) -> None:
    settings = load(changed(shipped, "retab.folds", ["fold0"]))
    assert len(settings.novel_classes("fold3")) == 5


OVERLAYS = [
    ("retab", "retab_voc"),
    ("raml", "raml_cityscapes"),
    ("pop", "pop_voc"),
    ("pop_coco", "pop_coco"),
    ("simformer", "simformer_cocostuff"),
    ("simformer_ade20k", "simformer_ade20k"),
    ("larvseg", "larvseg_ade150"),
]


@pytest.mark.parametrize(("name", "overlay"), OVERLAYS)
def test_the_published_overlay_restores_every_published_value(
    repository: Path, name: str, overlay: str
) -> None:
    """`config.yaml` makes things small; the overlay must take all of that back."""
    content = merged([repository / "config.yaml", repository / "config" / "paper" / f"{overlay}.yaml"])
    settings = load(content)
    system = name.partition("_")[0]
    options = getattr(settings, system)
    printed = json.dumps(yaml.safe_load(config.published(name))[system])
    found = options.model_dump(mode="json")
    expected = type(options).model_validate_json(printed).model_dump(mode="json")
    own = {"data": None, "shards": None}
    if system == "larvseg":  # experiments of both files are there, one of them is built
        own["experiments"] = None
    assert {**found, **own} == {**expected, **own}
    if system == "pop":  # the overlay says that the weights are to be set to a file
        assert not options.is_published()
        options = load(changed(content, "pop.base.backbone.weights", "weights/resnet50_v2.pth")).pop
    assert options.is_published()


def test_the_published_overlay_restores_stages(repository: Path) -> None:
    settings = load(merged([repository / "config.yaml", repository / "config" / "paper" / "retab_voc.yaml"]))
    assert settings.retab.folds == ["fold0", "fold1", "fold2", "fold3"]
    assert settings.retab.stage("cam").canonical() == Retab().stage("cam").canonical()


@pytest.mark.parametrize(("name", "overlay"), OVERLAYS)
def test_the_published_overlay_names_every_key(repository: Path, name: str, overlay: str) -> None:
    """So that no later change of `config.yaml` can slip into a published run."""
    path = repository / "config" / "paper" / f"{overlay}.yaml"
    system = name.partition("_")[0]
    content = yaml.safe_load(path.read_text(encoding="utf-8"))[system]
    printed = yaml.safe_load(config.published(name))[system]

    def keys(content: Any, prefix: str = "") -> set[str]:
        if not isinstance(content, dict):
            return {prefix}
        return set().union(*(keys(value, f"{prefix}.{key}") for key, value in content.items()))

    assert keys(content) == keys(printed), "run: make generated"


def test_the_schema_is_in_step(repository: Path) -> None:
    path = repository / "workflow" / "schema.json"
    assert path.read_text(encoding="utf-8") == config.schema(), "run: make generated"


def overlays(repository: Path) -> list[Path]:
    """The shipped configurations that are merged over `config.yaml`."""
    found = sorted((repository / "config").rglob("*.yaml"))
    return [path for path in found if path.parent.name != "synonyms"]


def test_shipped_synonyms_can_be_read(repository: Path) -> None:
    tables = sorted((repository / "config" / "synonyms").glob("*.yaml"))
    assert tables
    assert all(read_rules(path).renames for path in tables)


def test_the_schema_accepts_the_configurations(repository: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((repository / "workflow" / "schema.json").read_text(encoding="utf-8"))
    paths = overlays(repository)
    for over in [[], *([path] for path in paths)]:
        jsonschema.validate(merged([repository / "config.yaml", *over]), schema)


def test_every_option_says_what_it_means() -> None:
    """One line of meaning for each key, shown by editors."""
    for stage, options in STAGES.items():
        for key, field in options.model_fields.items():
            plain = field.annotation in (int, float, str, bool)
            assert field.description or not plain, f"retab.{stage}.{key} has no description"
            assert key not in FILLED_IN or field.description or not plain


def test_shipped_configurations_are_valid(repository: Path) -> None:
    rows = repository / "config" / "paper" / "larvseg_ade150.yaml"  # below the other rows of LarvSeg
    for path in [repository / "config.yaml", *overlays(repository)]:
        below = [rows] if path.parent == rows.parent and path.name.startswith("larvseg_") else []
        load(merged([repository / "config.yaml", *below, path]))


def test_the_command_checks_files(repository: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("retab: {affinity: {radius: five}}\n")

    def check(*paths: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "anyshot.config", "--check", *map(str, paths)]
        return subprocess.run(command, text=True, capture_output=True, check=False)

    good = check(repository / "config.yaml")
    assert (good.returncode, good.stdout) == (0, "no mistakes found\n")
    bad = check(repository / "config.yaml", wrong)
    assert bad.returncode == 1
    assert 'retab.affinity.radius: found "five", expected an integer >= 2' in bad.stderr
    assert "Traceback" not in bad.stderr


def test_the_configuration_needs_no_torch() -> None:
    """A dry run must start in about a second."""
    code = "import sys, anyshot.config; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
