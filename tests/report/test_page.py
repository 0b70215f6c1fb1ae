"""The page as a whole: complete, self-contained, well formed, escaped, and tolerant of what is absent."""

from __future__ import annotations

import base64
import html
import importlib.util
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from anyshot.errors import ArtifactError
from anyshot.job import Job
from anyshot.page_options import Report
from anyshot.report import plots
from anyshot.report.blocks import Section, Text
from anyshot.report.material import Material
from anyshot.report.page import SECTIONS, build
from tests.report.fabricated_run import NAMES, FabricatedRun

VOID_ELEMENTS = {"meta", "img", "br", "link", "input", "hr"}


class Checker(HTMLParser):
    """Collects elements and text, and complains about elements that are not closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture(scope="module")
def parsed(page: str) -> Checker:
    return checked(page)


def test_page_is_well_formed_with_unique_ids(parsed: Checker) -> None:
    ids = Counter(attributes["id"] for _, attributes in parsed.elements if "id" in attributes)
    assert [identity for identity, count in ids.items() if count > 1] == []
    links = [a["href"] for tag, a in parsed.elements if tag == "a"]
    assert links
    assert all(link is not None and link.startswith("#") and link[1:] in ids for link in links)


def test_page_refers_to_nothing_outside(page: str, parsed: Checker) -> None:
    assert not re.search(r"https?:", page)
    for tag, attributes in parsed.elements:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert "url(" not in page
    assert "@import" not in page


def test_pictures_inside_load_nothing_either(parsed: Checker) -> None:
    vector = [a["src"] for tag, a in parsed.elements if tag == "img" and "svg" in str(a["src"])[:30]]
    assert len(vector) > 10
    for uri in vector:
        text = base64.b64decode(str(uri).partition(",")[2]).decode("utf-8")
        root = ET.fromstring(text)
        for element in root.iter():
            for name, value in element.attrib.items():
                if name.endswith("href"):
                    assert value.startswith(("#", "data:"))
        assert "@import" not in text


def test_every_picture_has_an_alternative_text(parsed: Checker) -> None:
    alternatives = [attributes.get("alt") for tag, attributes in parsed.elements if tag == "img"]
    assert len(alternatives) > 50
    assert all(alternatives)


@pytest.mark.parametrize("name", NAMES)
def test_class_names_appear_as_text(name: str, page: str, parsed: Checker) -> None:
    assert name in "\n".join(parsed.text)
    assert html.escape(name, quote=False).replace('"', "&#34;") in page


def test_markup_in_names_stays_text(page: str) -> None:
    assert "<b>bold</b>" not in page
    assert "<run>" not in page
    assert "Test &lt;run&gt; &amp; report" in page


def test_numbers_of_every_split_and_variant_appear(fabricated: FabricatedRun, parsed: Checker) -> None:
    text = {part.strip() for part in parsed.text}
    for path in fabricated.files["scores"]:
        for content in json.loads(path.read_text(encoding="utf-8"))["variants"].values():
            result = content.get("best") or content["png"]
            for value in (result["all"], result["base"], result["novel"], result["harmonic"]):
                assert f"{100 * value:.2f}" in text
    for path in fabricated.files["miou"]:
        for value in json.loads(path.read_text(encoding="utf-8"))["miou"].values():
            assert f"{100 * value:.2f}" in text
    assert {"37.40", "62.50"} <= text  # published
    assert any("edge of the sweep" in part for part in parsed.text)


def test_sections_are_all_there_in_order(parsed: Checker) -> None:
    sections = [attributes["id"] for tag, attributes in parsed.elements if tag == "section"]
    main = [s for s in sections if s is not None and "fold" not in s]
    assert main == [
        "retab", "retab-pictures", "retab-classes", "retab-thresholds", "retab-confusion",
        "data", "training", "cost", "provenance",
    ]  # fmt: skip


ABSENT = {
    "miou": {"retab-confusion"},
    "curves": {"training"},
    "benchmarks": {"cost"},
    "images": {"retab-pictures"},
    "manifest": {"retab-pictures"},
}


@pytest.mark.parametrize("name", [
    "manifest", "classes", "card", "miou", "scores", "images", "samples", "curves", "cam", "psa_walk",
    "retab_walk", "pseudo_label", "predict", "benchmarks",
])  # fmt: skip
@pytest.mark.usefixtures("quick_plots")
def test_absent_inputs_leave_out_their_sections(name: str, material: Material) -> None:
    paths = {key: value for key, value in material.paths.items() if key != name}
    few = material.options.model_copy(update={"gallery_images": 1, "image_side": 32})
    parsed = checked(build(replace(material, paths=paths, options=few)))
    sections = {attributes["id"] for tag, attributes in parsed.elements if tag == "section"}
    gone = ABSENT.get(name, set())
    assert not gone & sections
    assert {"retab", "data"} - gone <= sections


def test_nothing_given_still_makes_a_page(material: Material) -> None:
    parsed = checked(build(replace(material, paths={}, provenance={})))
    assert "nothing to show" in " ".join(parsed.text)


@pytest.mark.usefixtures("quick_plots")
def test_page_is_bounded(material: Material) -> None:
    def size(options: Report) -> int:
        return len(build(replace(material, options=options)).encode())

    whole = size(material.options)
    limit = whole - 20_000
    assert size(material.options.model_copy(update={"max_megabytes": limit / 1e6})) < limit
    with pytest.raises(ArtifactError, match="max_megabytes"):
        size(material.options.model_copy(update={"max_megabytes": 0.05}))


@pytest.mark.usefixtures("quick_plots")
def test_page_is_deterministic(material: Material) -> None:
    assert build(material) == build(material)


def test_plots_are_deterministic() -> None:
    matrix = np.arange(9.0).reshape(3, 3)
    first, second = (plots.confusion(matrix, NAMES[:3], [False, True, False]) for _ in range(2))
    assert first == second


@pytest.mark.usefixtures("quick_plots")
def test_another_system_adds_a_section(material: Material) -> None:
    def other(_: Material) -> Section:
        return Section("other", "Another system", [Text(["It works: `a < b`."])])

    few = material.options.model_copy(update={"gallery_images": 0})
    page = build(replace(material, options=few), [other, *SECTIONS])
    assert '<a href="#other">Another system</a>' in page
    assert "<code>a &lt; b</code>" in page


@pytest.mark.usefixtures("quick_plots")
def test_report_script(fabricated: FabricatedRun, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "workflow/scripts/report/report.py"
    spec = importlib.util.spec_from_file_location("report_script", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    outputs = {"page": tmp_path / "report.html"}
    options = Report(gallery_images=1)
    module.main(Job.for_tests("report.report", options, inputs=fabricated.files, outputs=outputs))
    text = " ".join(checked((tmp_path / "report.html").read_text(encoding="utf-8")).text)
    assert '"gallery_images": 1' in text  # the options, under provenance
