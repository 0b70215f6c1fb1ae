from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small_disk import small_file_system


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    with small_file_system(tmp_path / "disk") as folder:
        yield folder
