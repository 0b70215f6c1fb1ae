"""Stage data.download: fetch PASCAL VOC 2012 and SBD, verify, unpack, write SegmentationClassAug."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from anyshot.data.download import SBD, VOC2012, fetch, unpack, with_url
from anyshot.data.files import write_bytes
from anyshot.data.options import Download
from anyshot.data.sbd import write_trainaug
from anyshot.job import Job, run

SECONDS_BETWEEN_LINES = 10.0


def main(job: Job) -> None:
    """Output: report (json), written when everything is in place under the option `root`."""
    root = Path(job.options.root)
    archives = [with_url(VOC2012, job.options.voc_url)]
    if job.options.sbd:
        archives.append(with_url(SBD, job.options.sbd_url))
    for archive in archives:
        job.log.info("%s from %s", archive.name, archive.url)
        unpack(fetch(archive, root, progress=logged(job)), root)
    found = {"voc": str(root / "VOCdevkit" / "VOC2012")}
    if job.options.sbd:
        voc, sbd = root / "VOCdevkit" / "VOC2012", root / "benchmark_RELEASE" / "dataset"
        count = write_trainaug(voc, sbd, progress=lambda ids, total: job.progress(ids, total=total))
        found["trainaug"] = str(count)
    write_bytes(job.output("report"), json.dumps(found, indent=1).encode())


def logged(job: Job) -> Callable[[int, int | None], None]:
    """A progress callback that writes a line every ten seconds."""
    last = time.monotonic()

    def line(present: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            job.log.info("%.0f of %s MB", present / 1e6, "?" if total is None else f"{total / 1e6:.0f}")

    return line


if __name__ == "__main__":
    run("data.download", Download, main)
