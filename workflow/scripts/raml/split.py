"""Write the split's classes and look-up tables (raml.md 1.4)."""

from anyshot.data.classes import ClassTable
from anyshot.data.split_tables import SplitTables
from anyshot.engine.artifacts import write_json
from anyshot.job import Job, run
from anyshot.raml.options import Split


def main(job: Job[Split]) -> None:
    options = job.options
    table = ClassTable.read(job.input("classes"))
    tables = SplitTables.make(table, novel=options.novel, ignored=options.ignored)
    job.log.info(
        "%s: %d known, %d novel, %d ignored classes",
        options.dataset.split, tables.known, len(tables.novel_ids), len(tables.ignored_ids),
    )  # fmt: skip
    content = {"split": options.dataset.split, "tables": tables.to_json(), **job.provenance()}
    write_json(job.output("split"), content)


if __name__ == "__main__":
    run("raml.split", Split, main)
