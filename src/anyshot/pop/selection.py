"""Which images are supports, and which base images an epoch of stage 2 shows. Source: pop.md 1.5 and 2.4.

Ids are those of the samples; classes are data set ids.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import numpy as np

from anyshot.data.prepare import sha256_of_ids
from anyshot.errors import ConfigError, DataError
from anyshot.pop.index import PixelIndex

Replay = Literal["voc", "coco"]
REPLAYS: Final = ("voc", "coco")


def few_shot(
    lists: Mapping[int, Sequence[str]], shots: int, seed: int, *, names: Mapping[int, str] | None = None
) -> dict[int, list[str]]:
    """Draw `shots` support images per novel class as the official code does, bit for bit (pop.md 1.5).

    Classes are drawn for in ascending order, by Python's `random`. A class with enough images gets images
    that no class before it has drawn. One with fewer than `shots` gets all of them in order and then draws
    with repetition, whatever other classes have. Where enough images are listed but too few of them are left
    by the classes before (the official code never ends then), a class gets all that are left in order, and
    the rest from its whole list with repetition. `repeats` tells which classes that happened to.

    Args:
        lists: the images that may support a class, by class, each in the order of the data set's list.
        shots: K, at least 1.
        seed: seed of the generator.
        names: of the classes, for messages.

    Returns:
        `shots` ids by class, classes ascending, ids in the order drawn.

    Raises:
        ConfigError: shots below 1.
        DataError: a class without images.
    """
    _check(lists, shots, names)
    rng = random.Random(seed)
    used: set[str] = set()
    chosen: dict[int, list[str]] = {}
    for class_id in sorted(lists):
        found = list(lists[class_id])
        left = [sample_id for sample_id in found if sample_id not in used]
        if len(found) < shots:
            drawn = [*found, *_repeated(found, shots - len(found), rng)]
        elif len(left) < shots:
            drawn = [*left, *_repeated(found, shots - len(left), rng)]
            used.update(left)
        else:
            drawn = _unused(found, shots, used, rng)
        chosen[class_id] = drawn
    return chosen


def _repeated(found: Sequence[str], count: int, rng: random.Random) -> list[str]:
    return [found[rng.randint(1, len(found)) - 1] for _ in range(count)]


def _unused(found: Sequence[str], count: int, used: set[str], rng: random.Random) -> list[str]:
    """`count` ids that are not yet in `used`, which they join. There must be as many."""
    drawn: list[str] = []
    while len(drawn) < count:
        sample_id = found[rng.randint(1, len(found)) - 1]
        if sample_id not in used:
            used.add(sample_id)
            drawn.append(sample_id)
    return drawn


def repeats(chosen: Mapping[int, Sequence[str]]) -> dict[int, list[str]]:
    """The ids that a class has more than once, or that a class before it has too; only classes with any.

    These classes have fewer support images of their own than shots: name them in a warning.
    """
    before: set[str] = set()
    found: dict[int, list[str]] = {}
    for class_id in sorted(chosen):
        ids = chosen[class_id]
        again = [
            sample_id for sample_id in dict.fromkeys(ids) if ids.count(sample_id) > 1 or sample_id in before
        ]
        if again:
            found[class_id] = again
        before.update(ids)
    return found


def list_text(chosen: Mapping[int, Sequence[str]]) -> str:
    """The list file: one id per line, every line ended, grouped by ascending class (pop.md 1.5)."""
    return "".join(f"{sample_id}\n" for sample_id in _ids(chosen))


def list_digest(chosen: Mapping[int, Sequence[str]]) -> str:
    """sha256 (hex) of the list file."""
    return sha256_of_ids(_ids(chosen))


def parse_list(text: str, class_ids: Iterable[int], shots: int) -> dict[int, list[str]]:
    """The supports of a given list file by class: `shots` ids for each, grouped by ascending class.

    Raises DataError when the ids cannot be shared out evenly, or are not `shots` for every class.
    """
    classes = sorted(class_ids)
    ids = text.split()
    if not ids or not classes or len(ids) % len(classes):
        raise DataError(
            f"a support list has {len(ids)} ids for {len(classes)} novel classes; expected the same number"
            " for every class, grouped by ascending class id"
        )
    given = len(ids) // len(classes)
    if given != shots:
        raise DataError(
            f"a support list has {given} ids for each of {len(classes)} novel classes, expected {shots}, as"
            " its name says: give the list of this number of shots, or set `pop.shots` to what it holds"
        )
    return {number: ids[rank * shots : (rank + 1) * shots] for rank, number in enumerate(classes)}


def check_supports(
    chosen: Mapping[int, Sequence[str]], index: PixelIndex, *, names: Mapping[int, str] | None = None
) -> None:
    """Raise DataError when a support image is not in the index or has no pixel of its class."""
    for class_id, ids in chosen.items():
        for sample_id in ids:
            if not index.pixels_of(sample_id, class_id):
                raise DataError(
                    f"the support image {sample_id!r} shows no pixel of its class {_name(class_id, names)};"
                    " are the ids of the list grouped by ascending class, and is it the list of this fold?"
                )


def draw_base(
    lists: Mapping[int, Sequence[str]],
    shots: int,
    rng: np.random.Generator,
    exclude: Iterable[str] = (),
    policy: Replay = "voc",
    *,
    names: Mapping[int, str] | None = None,
) -> dict[int, list[str]]:
    """Draw the base images that one epoch of stage 2 shows, `shots` per base class (pop.md 2.4).

    `voc`: no image twice, no image of `exclude`. Where the classes before have left too few, all that are
    left and then repetitions of these; where they have left none, images of the class's own list that another
    class has, too, still none of `exclude`. `coco`: with replacement, `exclude` or not; a class with fewer
    images than shots gives all of them and then repetitions. `scarce` tells beforehand which classes may
    repeat images. The draw depends on the generator's state and the lists alone.

    Args:
        lists: the images of a base class, by class.
        shots: K, at least 1.
        rng: drawn from for every class in ascending order.
        exclude: ids of all support images.
        policy: see above.
        names: of the classes, for messages.

    Returns:
        `shots` ids by class, classes ascending.

    Raises:
        ConfigError: shots below 1, or an unknown policy.
        DataError: a class without images, or `voc` and all images of a class are in `exclude`; whether it is
            raised depends on the arguments alone, never on `rng`.
    """
    own = _own(lists, shots, exclude, policy, names)
    taken: set[str] = set()
    chosen: dict[int, list[str]] = {}
    for class_id, found in own.items():
        if policy == "voc":
            left = [sample_id for sample_id in found if sample_id not in taken]
            drawn = _fresh(left or found, shots, rng)
            taken.update(drawn)
        elif len(found) < shots:
            drawn = [*found, *_again(found, shots - len(found), rng)]
        else:
            drawn = _again(found, shots, rng)
        chosen[class_id] = drawn
    return chosen


def scarce(
    lists: Mapping[int, Sequence[str]],
    shots: int,
    exclude: Iterable[str] = (),
    policy: Replay = "voc",
    *,
    names: Mapping[int, str] | None = None,
) -> dict[int, tuple[int, int]]:
    """The base classes of which `draw_base` may have to repeat images, with how many there are (without
    `exclude`, for `voc`) and how many of these the classes before leave at least, in the worst draw.

    Raises as `draw_base`, so a stage that asks this first cannot fail in a later epoch.
    """
    own = _own(lists, shots, exclude, policy, names)
    found: dict[int, tuple[int, int]] = {}
    before: list[set[str]] = []
    for class_id, ids in own.items():
        mine = set(ids)
        shared = [one & mine for one in before]
        most = min(len(set().union(*shared)), sum(min(shots, len(one)) for one in shared))
        least = len(mine) - (most if policy == "voc" else 0)
        if least < shots:
            found[class_id] = (len(mine), least)
        before.append(mine)
    return found


def scarce_text(found: Mapping[int, tuple[int, int]], shots: int, names: Mapping[int, str]) -> str:
    """What `scarce` has found, for the log."""
    classes = ", ".join(
        f"{_name(class_id, names)} ({own} images, at least {least} of them after the classes before)"
        for class_id, (own, least) in found.items()
    )
    return (
        f"base classes with few images of their own for {shots} a class and epoch, so some may be shown more"
        f" than once in an epoch: {classes}"
    )


def prototype_base(
    lists: Mapping[int, Sequence[str]],
    count: int,
    rng: np.random.Generator,
    exclude: Iterable[str] = (),
    *,
    names: Mapping[int, str] | None = None,
) -> dict[int, list[str]]:
    """The base images that the prototype baseline averages: of every class `count` of its own list, or all
    where there are fewer, each once and none of `exclude`. An image may stand for several classes.

    Args as `draw_base`, `count` at least 1. Raises DataError for a class that has no image beside `exclude`.
    """
    own = _own(lists, count, exclude, "voc", names)
    return {
        class_id: [ids[place] for place in rng.permutation(len(ids))[:count].tolist()]
        for class_id, ids in own.items()
    }


def _own(
    lists: Mapping[int, Sequence[str]],
    shots: int,
    exclude: Iterable[str],
    policy: Replay,
    names: Mapping[int, str] | None,
) -> dict[int, list[str]]:
    """What may be drawn for a class, classes ascending. Raises as `draw_base`."""
    _check(lists, shots, names)
    if policy not in REPLAYS:
        raise ConfigError(f"replay policy {policy!r} is unknown; the policies are {', '.join(REPLAYS)}")
    without = set(exclude) if policy == "voc" else set()
    own: dict[int, list[str]] = {}
    for class_id in sorted(lists):
        own[class_id] = [sample_id for sample_id in lists[class_id] if sample_id not in without]
        if not own[class_id]:
            raise DataError(
                f"base class {_name(class_id, names)}: each of its {len(lists[class_id])} images is a support"
                " image, whose novel pixels are no background; lower min_pixels, ask for fewer shots, or add"
                " images of the class"
            )
    return own


def _fresh(left: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    drawn = [left[number] for number in rng.choice(len(left), min(count, len(left)), replace=False).tolist()]
    return [*drawn, *_again(left, count - len(drawn), rng)]


def _again(found: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    return [found[number] for number in rng.integers(len(found), size=count).tolist()]


def _check(lists: Mapping[int, Sequence[str]], shots: int, names: Mapping[int, str] | None) -> None:
    if shots < 1:
        raise ConfigError(f"shots is {shots}, allowed are 1 and more; correct it in the configuration")
    for class_id in sorted(lists):
        if not lists[class_id]:
            raise DataError(
                f"no image shows enough of the class {_name(class_id, names)}, {shots} are needed; lower"
                " min_pixels, or add images"
            )


def _ids(chosen: Mapping[int, Sequence[str]]) -> list[str]:
    return [sample_id for class_id in sorted(chosen) for sample_id in chosen[class_id]]


def _name(class_id: int, names: Mapping[int, str] | None) -> str:
    return repr(names[class_id]) if names and class_id in names else str(class_id)
