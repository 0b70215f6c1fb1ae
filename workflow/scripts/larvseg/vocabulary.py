"""Unify the class lists of all sources and targets, and say what was unified (larvseg.md 1.4)."""

import json
from collections import Counter

from anyshot.data.manifest import read_samples
from anyshot.engine.artifacts import write_json
from anyshot.job import Job, run
from anyshot.larvseg.mapping import base_novel_report, mapping_report
from anyshot.larvseg.options import Source, Vocabulary
from anyshot.larvseg.tables import IMAGES, Tables, class_tables, make_classes, make_vocabulary


def images_by_class(job: Job[Vocabulary], tables: Tables, source: Source) -> list[int]:
    """How many training images of a source show each of its classes, by class index."""
    path = next(path for path in job.inputs("manifest") if path.parent.name == source.data)
    if path.name == IMAGES:
        shown = dict(enumerate(json.loads(path.read_text(encoding="utf-8"))["counts"].values()))
    else:
        shown = Counter(label for sample in read_samples(path, source.subsets) for label in sample.labels)
    return [shown[number] for number in tables.classes[source.name].ids]


def main(job: Job[Vocabulary]) -> None:
    experiment = job.options.experiment
    assert experiment is not None, "filled in by Larvseg.stage"
    classes = make_classes(experiment, class_tables(job.inputs("classes")))
    tables = Tables(experiment, make_vocabulary(classes), classes)
    report = mapping_report(tables.vocabulary, [found.classes for found in classes.values()])
    images = {source.name: images_by_class(job, tables, source) for source in experiment.sources}
    report["targets"] = {
        target.name: base_novel_report(
            tables.vocabulary, classes[target.name].classes, tables.base_novel(target.name)
        )
        for target in experiment.targets
    }
    report["images"] = images
    for name, found in report["targets"].items():
        counts = {part: found[part]["classes"] for part in ("base", "novel", "covered", "uncovered")}
        job.log.info("%s: %s", name, ", ".join(f"{count} {part}" for part, count in counts.items()))
        if found["uncovered"]["classes"]:
            names = found["uncovered"]["names"]
            job.log.warning(
                "%s: %d classes are in no source, e.g. %s: they cannot be learnt", name, len(names), names[0]
            )
    for source in experiment.sources:
        empty = [
            name
            for name, count in zip(classes[source.name].classes.names, images[source.name], strict=True)
            if not count
        ]
        if empty:
            job.log.warning("%s: %d classes have no image, e.g. %s", source.name, len(empty), empty[0])
    tables.vocabulary.write(job.output("vocabulary"))
    write_json(job.output("mapping"), {**report, **job.provenance()})


if __name__ == "__main__":
    run("larvseg.vocabulary", Vocabulary, main)
