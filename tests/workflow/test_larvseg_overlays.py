"""LarvSeg's overlays: each validates, and makes the vocabulary that larvseg.md 1.5 prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from anyshot.config import Config, load, merged
from anyshot.data.cityscapes_labels import cityscapes_table
from anyshot.data.class_lists import shipped_list
from anyshot.data.classes import ClassTable
from anyshot.data.coco_stuff_labels import coco_stuff_table
from anyshot.larvseg.system import Larvseg
from anyshot.larvseg.tables import Tables, make_classes, make_vocabulary

VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
MSRC = (
    "building", "grass", "tree", "cow", "horse", "sheep", "sky", "mountain", "aeroplane", "water", "face",
    "car", "bicycle", "flower", "sign", "bird", "book", "chair", "road", "cat", "dog", "body", "boat",
)  # fmt: skip

# overlay, its experiment, and of larvseg.md 1.5: rows, base and novel classes of the target
PAPER = [
    ("larvseg_ade150", "c171_a150w", 247, 63, 87),
    ("larvseg_ade847", "c171_a847w", 913, 94, 753),
    ("larvseg_pc59", "c171_pc59w", 174, 45, 14),
    ("larvseg_city19", "city19_a150w", 156, 13, 137),
    ("larvseg_coco171", "a150_c171w", 274, 47, 124),
]


def plain(names: tuple[str, ...]) -> ClassTable:
    """A table of things: none of these lists has a background."""
    return ClassTable.of(names, kinds=["thing"] * len(names))


def tables_of(settings: Config, split: str) -> Tables:
    every = {
        "coco_stuff": coco_stuff_table(),
        "cityscapes": cityscapes_table(),
        "ade20k": plain(shipped_list("ade150").names),
        "ade20k_full": plain(shipped_list("ade847").names),
        "pascal_context": plain(shipped_list("pascal_context59").names),
        "msrc21": plain(MSRC),
        "voc256": ClassTable.of(VOC),
    }
    classes = make_classes(settings.larvseg.experiments[split], every)
    return Tables(settings.larvseg.experiments[split], make_vocabulary(classes), classes)


def paper(repository: Path, overlay: str) -> Config:
    """The configuration as the head of the overlay says to run it."""
    names = dict.fromkeys(["larvseg_ade150", overlay])
    files = [repository / "config" / "paper" / f"{name}.yaml" for name in names]
    return load(merged([repository / "config.yaml", *files]))


@pytest.mark.parametrize(("overlay", "split", "rows", "base", "novel"), PAPER)
def test_a_published_row_builds_its_experiment_with_the_published_vocabulary(
    repository: Path, overlay: str, split: str, rows: int, base: int, novel: int
) -> None:
    settings = paper(repository, overlay)
    assert settings.systems == ["larvseg"]
    assert settings.larvseg.built() == [split]
    tables = tables_of(settings, split)
    (target,) = settings.larvseg.targets(split)
    found = tables.base_novel(target)
    assert (len(tables.vocabulary), len(found.base), len(found.novel)) == (rows, base, novel)
    assert found.covered == found.novel  # the images with labels are those of the target


@pytest.mark.parametrize("overlay", [row[0] for row in PAPER])
def test_the_head_of_an_overlay_says_how_to_run_it(repository: Path, overlay: str) -> None:
    text = (repository / "config" / "paper" / f"{overlay}.yaml").read_text(encoding="utf-8")
    assert "--configfile" in text
    assert f"config/paper/{overlay}.yaml" in text


def test_every_published_row_is_tested(repository: Path) -> None:
    files = sorted(path.stem for path in (repository / "config" / "paper").glob("larvseg_*.yaml"))
    assert files == sorted(row[0] for row in PAPER)


def test_settings_that_differ_between_the_rows(repository: Path) -> None:
    """Table of larvseg.md 3."""
    large = paper(repository, "larvseg_ade847").larvseg
    assert (large.attentive.sampled_classes, large.baseline.sampled_classes) == (100, None)
    assert (large.attentive.attention.slots, large.attentive.attention.tokens) == (20, 20)
    weights = [(one.weight, one.attention_weight) for one in large.experiments["c171_a847w"].sources[1:]]
    assert weights == [(0.2, 0.1)]
    for overlay in ("larvseg_pc59", "larvseg_city19", "larvseg_coco171"):
        attention = paper(repository, overlay).larvseg.attentive.attention
        found = (attention.single_image, attention.slots, attention.tokens, attention.warm_up)
        assert found == (True, 1, 1, 0)
    context = paper(repository, "larvseg_pc59").larvseg.experiments["c171_pc59w"].sources[1]
    assert (context.crop, context.short_side, context.long_side) == (480, 520, 520)
    city = paper(repository, "larvseg_city19").larvseg.experiments["city19_a150w"].sources[0]
    assert (city.crop, city.short_side, city.long_side) == (512, 1024, 2048)


def test_only_the_first_row_counts_as_published(repository: Path) -> None:
    assert paper(repository, "larvseg_ade150").larvseg.is_published("c171_a150w")
    assert not paper(repository, "larvseg_ade847").larvseg.is_published("c171_a847w")


def test_the_example_of_the_documentation(repository: Path, tmp_path: Path) -> None:
    text = (repository / "docs" / "larvseg.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    own = tmp_path / "own.yaml"
    own.write_text(block, encoding="utf-8")
    settings = load(merged([repository / "config.yaml", own]))
    assert settings.larvseg.built() == ["own"]
    sources = settings.larvseg.experiments["own"].sources
    assert [(one.role, one.label_source) for one in sources] == [("pixel", "crop"), ("image", "image")]
    tagged = yaml.safe_load(block)["data"]["tagged"]
    assert tagged["masks"] is False


def test_the_bench_on_photographs(repository: Path) -> None:
    overlay = repository / "config" / "bench" / "larvseg_voc256.yaml"
    settings = load(merged([repository / "config.yaml", overlay]))
    larvseg: Larvseg = settings.larvseg
    assert larvseg.built() == ["voc256"]
    experiment = larvseg.experiments["voc256"]
    # the path of the table of synonyms counts from the root of the repository, where Snakemake runs
    pixel = experiment.sources[0]
    rules = str(repository / pixel.rules)
    sources = [pixel.model_copy(update={"rules": rules}), *experiment.sources[1:]]
    absolute = larvseg.model_copy(
        update={"experiments": {"voc256": experiment.model_copy(update={"sources": sources})}}
    )
    tables = tables_of(settings.model_copy(update={"larvseg": absolute}), "voc256")
    found = tables.base_novel("voc20")
    novel = [VOC[1 + index] for index in found.novel]
    assert novel == [
        "bottle", "bus", "diningtable", "motorbike", "pottedplant", "sofa", "train", "tvmonitor"
    ]  # fmt: skip
    assert len(found.base) == 12
    assert len(tables.vocabulary) == 30  # 22 of MSRC-21, face and body being one, and the novel ones
    member = tables.member("msrc")
    person = member.active.index(member.rows[MSRC.index("face")])
    assert member.rows[MSRC.index("face")] == member.rows[MSRC.index("body")]
    assert member.multiplicity[person] == 2
    assert experiment.sources[1].label_source == "image"
