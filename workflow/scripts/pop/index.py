"""Count the pixels of every class in every training image, once for all splits (pop.md 1.4, 5.3)."""

from anyshot.data.classes import ClassTable
from anyshot.data.manifest import read_samples
from anyshot.job import Job, run
from anyshot.pop.index import PixelIndex
from anyshot.pop.options import Index


def main(job: Job[Index]) -> None:
    samples = read_samples(job.input("manifest"), job.options.dataset.subsets)
    job.log.info("reading %d masks", len(samples))
    index = PixelIndex.build(samples, ClassTable.read(job.input("classes")), threads=job.threads)
    if job.options.order == "id":
        index = index.select(sorted(index.ids))
    index.write(job.output("index"))


if __name__ == "__main__":
    run("pop.index", Index, main)
