"""LarvSeg's part of the page, from a made-up run: alone, and beside SimFormer."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anyshot.data.classes import ClassTable
from anyshot.page_options import Report
from anyshot.report import larvseg, larvseg_vocabulary, plots, sections
from anyshot.report.blocks import Details, Note, Table
from anyshot.report.larvseg import Measured, are_near, confusion_table, extremes_table, results_table
from anyshot.report.material import Material, Place, place_of, title_of
from anyshot.report.page import build
from anyshot.report.tables import VARIANTS
from tests.report.fabricated_larvseg import METHODS, TARGETS, add_larvseg
from tests.report.fabricated_raml import only
from tests.report.fabricated_run import NAMES, FabricatedRun, drawn_pictures
from tests.report.fabricated_simformer import add_simformer
from tests.report.test_raml import headings, text_of

OPTIONS = Report(title="Test", gallery_images=1, image_side=64)
PARTS = [
    "larvseg-pictures", "larvseg-classes", "larvseg-confusions", "larvseg-warm-up", "larvseg-vocabulary",
    "larvseg-compactness",
]  # fmt: skip
SHARED = ["data", "training", "cost", "provenance"]
MEASURES = ("all", "base", "novel", "harmonic")
COMPACT = {
    "target": "toy",
    "method": "attentive",
    "points": [
        {
            "points": 1,
            "seen": {"mean": 0.5275, "spread": 0.0075},
            "unseen": {"mean": 0.4712, "spread": None},
            "all": {"mean": None, "spread": None},
        },
    ],
}


def fabricated(folder: Path, *, shown: int = 2, methods: tuple[str, ...] = METHODS) -> FabricatedRun:
    run = FabricatedRun(folder / "results", drawn_pictures(14), ClassTable.of(NAMES), {})
    add_simformer(run, "small1", [2, 3])
    add_larvseg(run, "small1", shown=shown, methods=methods)
    run.add_json("compactness", "larvseg/small1/compactness.json", COMPACT)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FabricatedRun:
    """LarvSeg on one experiment with two targets, and SimFormer on the same data."""
    return fabricated(tmp_path_factory.mktemp("two"))


def material_of(files: dict[str, list[Path]], **options: Any) -> Material:
    chosen = OPTIONS.model_copy(update=options)
    return Material(paths=files, options=chosen, provenance={"anyshot": "1"})


@pytest.fixture(scope="module")
def page(run: FabricatedRun) -> str:
    return build(material_of(only(run.files, "larvseg")))


def entries(run: FabricatedRun) -> list[dict[str, Any]]:
    (path,) = only(run.files, "larvseg")["miou"]
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["variants"]
    return found


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for group in table.groups for row in group.rows]


def test_page_of_larvseg_alone(page: str) -> None:
    assert headings(page) == ["larvseg", *PARTS, *SHARED]
    text = text_of(page)
    assert "LarvSeg on toy" in text
    assert "LARVSEG" not in text
    assert "Protocol: IoU over the pixels of the target's classes." in text
    assert "All masks (upper bound): the masks of the image-labelled sources are learnt from, too." in text
    assert "Masks alone:" not in text  # what was not run is not explained
    assert "|baseline (oracle)|" in text  # a trained network with its cost
    assert not re.search(r"https?:", page)


@pytest.mark.usefixtures("quick_plots")
def test_page_of_two_systems(run: FabricatedRun) -> None:
    page = build(material_of(run.files))
    names = headings(page)
    assert names[names.index("larvseg") :] == ["larvseg", *PARTS, *SHARED]
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "LarvSeg attentive, small1" in text_of(page)


@pytest.mark.usefixtures("quick_plots")
@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("miou", {"larvseg-pictures", "larvseg-classes", "larvseg-confusions"}),
        ("shown", {"larvseg-pictures"}),
        ("predict", set()),
        ("manifest", {"larvseg-pictures"}),
        ("classes", {"larvseg-pictures"}),
        ("curves", {"larvseg-warm-up"}),
        ("mapping", {"larvseg-vocabulary"}),
        ("compactness", {"larvseg-compactness"}),
    ],
)
def test_absent_inputs_are_left_out(name: str, gone: set[str], run: FabricatedRun) -> None:
    paths = {key: value for key, value in only(run.files, "larvseg").items() if key != name}
    assert set(PARTS) - set(headings(build(material_of(paths)))) == gone


@pytest.mark.usefixtures("quick_plots")
def test_no_pictures_where_none_were_kept_or_are_wanted(run: FabricatedRun, tmp_path: Path) -> None:
    none = fabricated(tmp_path, shown=0)
    assert "larvseg-pictures" not in headings(build(material_of(only(none.files, "larvseg"))))
    unwanted = material_of(only(run.files, "larvseg"), gallery_images=0)
    assert "larvseg-pictures" not in headings(build(unwanted))


def measured(method: str, novel: float, classes: list[dict[str, Any]] | None = None) -> Measured:
    values = {"all": 0.5, "base": 0.6, "novel": novel, "harmonic": 0.4}
    groups = {"covered": 0.25, "uncovered": None}
    accuracy = {"pixels": 0.75, "mean": None}
    confused = [
        {"truth": "sea water", "predicted": "water", "share": 0.5},
        {"truth": "cat", "predicted": "house", "share": 0.125},
    ]
    return Measured("one", method, "a150", values, groups, accuracy, classes or [], confused)


def test_results_table_by_hand() -> None:
    members = [measured("baseline", 0.2), measured("attentive", 0.25), measured("oracle", 0.5)]
    table = results_table({("one", "a150"): members})
    assert table.columns == ["Method", *MEASURES, "novel gain", "covered", "pixels"]
    assert table.spans == (("", 1), ("mIoU in %", 5), ("mIoU of classes, %", 1), ("right, %", 1))
    assert table.groups[0].heading == "one, on a150"
    assert texts(table) == [
        ["Baseline, mean pooling", "50.00", "60.00", "20.00", "40.00", "", "25.00", "75.00"],
        ["LarvSeg", "50.00", "60.00", "25.00", "40.00", "+5.00", "25.00", "75.00"],
        ["All masks (upper bound)", "50.00", "60.00", "50.00", "40.00", "+30.00", "25.00", "75.00"],
    ]
    strong = [cell.text for group in table.groups for row in group.rows for cell in row if cell.strong]
    assert strong == ["25.00"]
    assert "without image labels" in table.footnote
    assert "Rare" not in table.footnote


def test_published_numbers_have_a_row_of_their_own() -> None:
    published = replace(
        measured("attentive", 0.25), reference={"all": 0.3164, "base": 0.3878, "novel": 0.2646}
    )
    table = results_table({("one", "a150"): [measured("baseline", 0.2), published]})
    assert texts(table)[2] == ["LarvSeg, published", "31.64", "38.78", "26.46", "–", "", "", ""]
    assert [cell.text for cell in table.groups[0].rows[2] if cell.strong] == []


def test_no_gain_without_a_baseline() -> None:
    table = results_table({("one", "a150"): [measured("attentive", 0.25)]})
    assert table.columns == ["Method", *MEASURES, "covered", "pixels"]
    assert "gain" not in table.footnote


def test_numbers_of_every_method_and_target(run: FabricatedRun, page: str) -> None:
    text = text_of(page)
    found = entries(run)
    assert [(one["method"], one["target"]) for one in found] == [(m, t) for t in TARGETS for m in METHODS]
    for one in found:
        for name in MEASURES:
            assert f"|{100 * one['mean'][name]:.2f}|" in text
    for target in TARGETS:
        assert f"|small1, on {target}|" in text
    assert "|LarvSeg, novel mIoU|" in text
    assert "|31.25|" in text  # common
    assert "|43.75|" in text  # frequent


def test_best_and_worst_classes_by_hand() -> None:
    def rows(*values: float | None) -> list[dict[str, Any]]:
        return [
            {"id": number, "name": f"n{number}", "role": "novel", "iou": value, "pixels": 9}
            for number, value in enumerate(values)
        ]

    item = measured("attentive", 0.2, rows(0.5, 0.25, None, 0.75, 0.125))
    before = measured("baseline", 0.2, rows(0.25, 0.25, 0.5, None, 0.25))
    table = extremes_table(item, compared=before, count=8)
    assert [group.heading for group in table.groups] == ["best novel classes", "worst novel classes"]
    assert texts(table) == [
        ["n3", "75.00", "–"], ["n0", "50.00", "+25.00"],
        ["n4", "12.50", "-12.50"], ["n1", "25.00", "+0.00"],
    ]  # fmt: skip
    few = extremes_table(item, compared=None, count=1)
    assert texts(few) == [["n3", "75.00"], ["n4", "12.50"]]


@pytest.mark.parametrize(
    ("first", "second", "near"),
    [
        ("traffic light", "traffic-light", True),
        ("sea water", "water", True),
        ("motorbike", "motorbikes", True),
        ("earth", "ground", False),
        ("cat", "car", False),
    ],
)
def test_near_names(first: str, second: str, near: bool) -> None:
    assert are_near(first, second) is near
    assert are_near(second, first) is near


def test_confusions_by_hand() -> None:
    classes = [
        {"id": 0, "name": "sea water", "role": "novel"}, {"id": 1, "name": "water", "role": "base"},
        {"id": 2, "name": "cat", "role": "base"}, {"id": 3, "name": "house", "role": "novel"},
    ]  # fmt: skip
    table = confusion_table(measured("attentive", 0.2, classes), 10)
    assert texts(table) == [
        ["sea water", "water", "novel as base", "near", "50.00"],
        ["cat", "house", "base as novel", "", "12.50"],
    ]
    assert len(texts(confusion_table(measured("attentive", 0.2, classes), 1))) == 1


def test_only_the_most_frequent_classes_are_drawn_but_all_are_listed(
    run: FabricatedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[str]] = []

    def note(names: list[str], *_: Any) -> str:
        drawn.append(list(names))
        return "data:image/svg+xml;base64,"

    monkeypatch.setattr(plots, "class_bars", note)
    monkeypatch.setattr(larvseg, "MOST_BARS", 3)
    section = larvseg.classes(material_of(only(run.files, "larvseg")))
    assert section is not None
    assert [part.heading for part in section.subsections] == ["small1, on toy", "small1, on wide"]
    assert [len(names) for names in drawn] == [3, 3]
    numbers = section.subsections[0].blocks[-1]
    assert isinstance(numbers, Details)
    table = numbers.blocks[0]
    assert isinstance(table, Table)
    assert {row[0] for row in texts(table)} == set(NAMES[1:])
    swatches = {cell.swatch for group in table.groups for row in group.rows for cell in row[:1]}
    assert None not in swatches  # the first target's classes have the data set's colours
    other = section.subsections[1].blocks[-1]
    assert isinstance(other, Details)
    assert isinstance(other.blocks[0], Table)
    assert all(row[0].swatch is None for group in other.blocks[0].groups for row in group.rows)


def mapping_of(run: FabricatedRun) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(run.files["mapping"][0].read_text(encoding="utf-8"))
    return content


def test_vocabulary_in_short(run: FabricatedRun) -> None:
    mapping = mapping_of(run)
    lists = texts(larvseg_vocabulary.lists_table(mapping))
    assert lists[0] == ["masked", "4", "3", "traffic light x 2", "3"]
    assert lists[1] == ["tagged", "5", "5", "", "5"]
    assert lists[2] == ["toy", "5", "5", "", "–"]
    targets = texts(larvseg_vocabulary.targets_table(mapping["targets"]))
    assert [row[:5] for row in targets] == [["toy", "2", "3", "3", "0"], ["wide", "1", "3", "1", "2"]]
    blocks = larvseg_vocabulary.mapping_blocks(mapping)
    notes = [block.text for block in blocks if isinstance(block, Note)]
    assert notes == [
        "wide: 2 classes are in no source, so they cannot be learnt: traffic-light, nowhere.",
        "masked: 1 of 4 classes have no training image.",
    ]
    details = {block.summary: block for block in blocks if isinstance(block, Details)}
    assert set(details) == {"Near names: 1", f"Unified names: {len(mapping['unified'])}"}
    near = details["Near names: 1"].blocks[1]
    assert isinstance(near, Table)
    assert texts(near) == [["traffic light", "traffic-light"]]


def test_compactness_by_hand(run: FabricatedRun) -> None:
    section = larvseg_vocabulary.compactness(material_of(run.files))
    assert section is not None
    table = section.blocks[1]
    assert isinstance(table, Table)
    assert table.groups[0].heading == "small1, on toy"
    assert texts(table) == [["LarvSeg", "1", "52.75 ± 0.75", "47.12", "–"]]


def test_long_tables_of_unified_names_are_cut(run: FabricatedRun) -> None:
    entry = {"name": "sky", "from": {"a": ["sky"], "b": ["sky-other", "clouds"]}}
    table = larvseg_vocabulary.unified_table([entry] * 62)
    assert texts(table)[0] == ["sky", "a: sky; b: sky-other, clouds"]
    assert len(texts(table)) == 60
    assert table.footnote == "And 2 more, in mapping.json."
    assert larvseg_vocabulary.unified_table(mapping_of(run)["unified"]).footnote == ""


def test_warm_up_is_a_section_and_no_loss(run: FabricatedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, list[str]]] = []

    def note(rows: Any, parts: list[str], *, title: str, **_: Any) -> str:
        drawn.append((title, parts))
        return "data:image/svg+xml;base64,"

    monkeypatch.setattr(plots, "training_curve", note)
    material = material_of(only(run.files, "larvseg"))
    assert larvseg.warm_up(material) is not None
    assert drawn == [("small1", ["tagged"])]
    assert sections.training(material) is not None
    losses = dict(drawn)["LarvSeg attentive, small1"]
    assert losses == ["loss", "masked_pixels", "tagged_labels", "tagged_attention"]


def test_places_and_names() -> None:
    assert place_of(Path("r/larvseg/one/predict/attentive/a150/1of2/shown.h5")) == Place(
        "larvseg", "one", "predict", "attentive/a150"
    )
    assert place_of(Path("r/larvseg/one/attentive/train.jsonl")) == Place("larvseg", "one", "attentive")
    assert place_of(Path("r/larvseg/one/compactness.json")).split == "one"
    stages = ("vocabulary", "baseline", "attentive", "predict", "evaluate")
    places = [Place("larvseg", "one", stage) for stage in stages]
    assert sorted(places, key=lambda place: place.order) == places
    assert title_of("larvseg") == "LarvSeg"
    names = list(VARIANTS)
    order = [names.index(name) for name in ("pixel_only", "baseline", "attentive", "oracle")]
    assert order == sorted(order)


def test_alternatives_say_what_the_pictures_show(page: str) -> None:
    alternatives = [html.unescape(alt) for alt in re.findall(r'alt="([^"]+)"', page)]
    assert sum(alt.startswith("Bars of the IoU per class, small1, on ") for alt in alternatives) == 2
    assert any(alt.startswith("Warm-up, small1. At the end, in %: tagged ") for alt in alternatives)
