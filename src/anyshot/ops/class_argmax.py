"""The best of tens of thousands of classes at every pixel, without the tensor of pixels x classes.

The class-axis normalisation adds the same number to all logits of a pixel, so the order of the classes is
that of gamma * c_n . (U [x / sigma])_q, U the upsampling (larvseg.md 5.2 item 5). Rows of the image go in
bands, classes in chunks, and a running best remains: exact, in memory that the caller bounds. 21,841 classes
at 512 x 512 px need 21.3 GiB otherwise.

Two orders of the same sums: `logits` multiplies tokens by a chunk of classes and upsamples those logits (two
thousand times fewer products than pixels x classes x D needs, four additions per pixel and class instead);
`features` upsamples the D channels and multiplies pixels by classes, the form of larvseg.md 5.2 item 5, which
only pays where products are almost free (half precision on a GPU).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from anyshot.ops.pixel_taps import PixelMap, Taps
from anyshot.ops.precision import without_autocast

Order = Literal["logits", "features"]
Precision = Literal["float32", "bfloat16"]

MIB = 2**20
# scores at once, and classes among them: a tile stays in a CPU's cache, a GPU wants much work at once
CPU_TILE, GPU_TILE = 2**18, 2**26
CPU_CHUNK, GPU_CHUNK = 256, 1024
BFLOAT16_ERROR = 2.0**-6
"""Above the error of a bfloat16 product relative to |x| |c|: each factor and the result are rounded to 2^-8
of their size, the sum is taken in float32 (larvseg.md 5.3 counts the factors alone)."""


@dataclass(frozen=True)
class TopClasses:
    """The best classes of every pixel, best first; of equal ones the class with the lower index is first."""

    classes: Tensor
    """(k, H, W) int32."""
    scores: Tensor
    """(k, H, W) float32: gamma * c_n . x / sigma, the logit but for a number that all classes of the pixel
    share."""
    log_sum_exp: Tensor | None = None
    """(H, W) float32 over all classes, of the scores."""

    @property
    def probabilities(self) -> Tensor:
        """(k, H, W) softmax over all classes at the best k. Raises ValueError without `log_sum_exp`."""
        if self.log_sum_exp is None:
            raise ValueError("probabilities need the sum over all classes: ask for log_sum_exp=True")
        return (self.scores - self.log_sum_exp).exp()


def class_argmax(
    tokens: Tensor,
    pixels: PixelMap,
    classes: Tensor,
    *,
    memory_mib: float,
    gamma: float = 1.0,
    order: Order = "logits",
    precision: Precision = "float32",
) -> Tensor:
    """The class with the highest logit at every pixel: int32 (H, W). See `top_classes`."""
    found = top_classes(tokens, pixels, classes, k=1, memory_mib=memory_mib, gamma=gamma, order=order,
                        precision=precision)  # fmt: skip
    return found.classes[0]


@torch.no_grad()
def top_classes(
    tokens: Tensor,
    pixels: PixelMap,
    classes: Tensor,
    *,
    k: int,
    memory_mib: float,
    gamma: float = 1.0,
    order: Order = "logits",
    precision: Precision = "float32",
    candidates: int = 8,
    log_sum_exp: bool = False,
) -> TopClasses:
    """The k best of N classes at every pixel, with their scores (larvseg.md 5.2 item 5).

    tokens: (T, D) features divided by their sigma, `token_table`'s; pixels: how pixels are made of them;
    classes: (N, D) class vectors on the same device (rows of a part of the vocabulary give the best of that
    part); gamma: the classifier's scale; below 0 the least product wins, at 0 all classes are equal. Computed
    in float32; with `precision` bfloat16 products are taken in that, `candidates` classes beyond k are
    computed again in float32, and pixels where a class outside of these could win are computed in full: the
    result is that of float32. It does not depend on the memory, but for classes equal up to rounding.

    memory_mib: what may be held at once beside the arguments, the result and, where they are needed, one copy
    of the tokens (gamma not 1) and one of the classes (bfloat16). Bands, chunks and tiles follow from it.
    Raises ValueError for impossible arguments and when one row of the image does not fit the memory.
    """
    _check(tokens, pixels, classes, k, order, precision, log_sum_exp)
    device = tokens.device
    shape = (k, pixels.height, pixels.width)
    best = torch.empty(shape, dtype=torch.int32, device=device)
    scores = torch.empty(shape, device=device)
    total = torch.empty(shape[1:], device=device) if log_sum_exp else None
    with without_autocast(tokens), _float32_sums():
        search = Search(tokens.float() * gamma if gamma != 1 else tokens.float(), classes.float(), k=k,
                        memory=int(memory_mib * MIB), order=order, precision=precision, candidates=candidates,
                        log_sum_exp=log_sum_exp)  # fmt: skip
        for start, stop in bands(pixels, search.fits):
            found = search.best(pixels.rows(start, stop, device))
            here = (slice(None), slice(start, stop))
            best[here] = found.classes.T.view(k, -1, pixels.width).int()
            scores[here] = found.scores.T.view(k, -1, pixels.width)
            if total is not None and found.log_sum_exp is not None:
                total[start:stop] = found.log_sum_exp.view(-1, pixels.width)
    return TopClasses(best, scores, total)


def bands(pixels: PixelMap, fits: Callable[[PixelMap, int], bool]) -> Iterator[tuple[int, int]]:
    """Bands of rows as tall as `fits(pixels, rows)` allows. Raises ValueError when one row is too many."""
    rows = pixels.height
    while not fits(pixels, rows):
        if rows == 1:
            raise ValueError(
                f"one row of {pixels.width} px, made of {pixels.taps} tokens each, does not fit memory_mib:"
                " allow more, or use fewer overlapping windows"
            )
        rows = (rows + 1) // 2
    for start in range(0, pixels.height, rows):
        yield start, min(start + rows, pixels.height)


@dataclass
class Best:
    """The running best of P pixels: classes (P, k) int64, scores (P, k) descending, log_sum_exp (P,)."""

    classes: Tensor
    scores: Tensor
    log_sum_exp: Tensor | None

    @classmethod
    def empty(cls, pixels: int, k: int, device: torch.device, log_sum_exp: bool) -> Best:
        lowest = torch.full((pixels, k), -torch.inf, device=device)
        total = torch.full((pixels,), -torch.inf, device=device) if log_sum_exp else None
        return cls(torch.zeros((pixels, k), dtype=torch.int64, device=device), lowest, total)

    def update(self, here: slice, scores: Tensor, first: int) -> None:
        """Take in the scores (p, c) of the pixels `here` for classes from `first` on; `scores` is used up.

        Chunks come in the order of the classes, and only a higher score displaces: ties keep the first.
        """
        highest = scores.amax(dim=1)
        # where a chunk holds the best is only looked for at the few pixels whose best it is
        better = (highest.float() > self.scores[here, -1]).nonzero()[:, 0]
        if len(better):
            self._merge(better + here.start, scores[better], first)
        if self.log_sum_exp is not None:
            part = scores.sub_(highest[:, None]).exp_().sum(dim=1).log_().add_(highest)
            self.log_sum_exp[here] = torch.logaddexp(self.log_sum_exp[here], part)

    def _merge(self, rows: Tensor, scores: Tensor, first: int) -> None:
        k = self.scores.shape[1]
        values, classes = [self.scores[rows]], [self.classes[rows]]
        rounds = min(k, scores.shape[1])
        for number in range(rounds):  # of equal ones, max gives the first; topk does not say
            value, place = scores.max(dim=1, keepdim=True)
            values.append(value.float())
            classes.append(place + first)
            if number + 1 < rounds:
                scores.scatter_(1, place, -torch.inf)
        ordered, places = torch.cat(values, dim=1).sort(dim=1, descending=True, stable=True)
        self.scores[rows] = ordered[:, :k]
        self.classes[rows] = torch.cat(classes, dim=1).gather(1, places[:, :k])


class Search:
    """The best k classes of pixels given by their taps, within `memory` bytes."""

    def __init__(
        self,
        tokens: Tensor,
        classes: Tensor,
        *,
        k: int,
        memory: int,
        order: Order = "logits",
        precision: Precision = "float32",
        candidates: int = 8,
        log_sum_exp: bool = False,
    ) -> None:
        self.tokens, self.classes, self.memory = tokens, classes, memory
        self.k, self.log_sum_exp, self.order = k, log_sum_exp, order
        self.half = precision == "bfloat16"
        self.kept = min(k + candidates, len(classes)) if self.half else k
        if self.half:
            self.half_classes = classes.bfloat16()
            reach = torch.linalg.vector_norm(classes, dim=1).max()
            self.errors = torch.linalg.vector_norm(tokens, dim=1)[:, None] * reach * BFLOAT16_ERROR
        on_cpu = tokens.device.type == "cpu"
        self._tile = CPU_TILE if on_cpu else GPU_TILE
        self._chunk = CPU_CHUNK if on_cpu else GPU_CHUNK

    def fits(self, pixels: PixelMap, rows: int) -> bool:
        """Whether a band of so many rows leaves half of the memory to tiles; for one row, enough of it."""
        band = pixels.row_bytes(rows) + rows * pixels.width * self.pixel_bytes(pixels.taps)
        return band <= self.memory // 2 or (rows == 1 and band + self._work(1, 1, self.tokens) <= self.memory)

    def pixel_bytes(self, taps: int) -> int:
        """Bytes per pixel of a band beside its taps: the running best, and what computing again needs."""
        again = 12 * taps + 32 * self.kept + 40 if self.half else 0
        return again + 16 * self.kept + 8 * taps + 32

    def best(self, taps: Taps, *, held: int = 0) -> Best:
        """The best k classes (P, k) of P pixels, computed exactly. held: further bytes that the caller
        holds."""
        count, each = taps.tokens.shape
        room = self.memory - held - count * (12 * each + self.pixel_bytes(each))
        begin, end = int(taps.tokens.min()), int(taps.tokens.max()) + 1
        taps = Taps(taps.tokens - begin, taps.weights)
        tokens = self.tokens[begin:end]
        if not self.half:
            return self._streamed(taps, tokens, self.classes, self.k, room)
        rough = self._streamed(taps, tokens.bfloat16(), self.half_classes, self.kept, room)
        return self._rescored(taps, tokens, rough, self.errors[begin:end], room)

    def _work(self, pixels: int, chunk: int, tokens: Tensor) -> int:
        """Bytes held for a tile of so many pixels and a chunk of so many classes."""
        each = 10 * chunk + 56 * self.kept + 80  # scores, those that displace the best, the merging
        size = 12 if self.half else 8  # of a value, the next one made before it is dropped
        if self.order == "features":
            tile = pixels * (each + size * tokens.shape[1])
        else:
            tile = pixels * each + size * len(tokens) * chunk
        return max(tile, self._again(1)) if self.half else tile

    def _again(self, pixels: int) -> int:
        """Bytes held while the candidates of so many pixels are computed again."""
        return pixels * (4 * (self.kept + 2) * self.tokens.shape[1] + 80 * self.kept)

    def _sizes(self, room: int, tokens: Tensor) -> tuple[int, int]:
        """Pixels of a tile and classes of a chunk that fit `room` bytes."""
        chunk = min(self._chunk, len(self.classes))
        while chunk > 1 and self._work(1, chunk, tokens) > room // 2:
            chunk //= 2
        pixels = max(1, self._tile // chunk)
        while pixels > 1 and self._work(pixels, chunk, tokens) > room:
            pixels //= 2
        return pixels, chunk

    def _streamed(self, taps: Taps, tokens: Tensor, classes: Tensor, kept: int, room: int) -> Best:
        """The running best of all chunks; tokens and classes both float32 or both bfloat16."""
        best = Best.empty(len(taps.tokens), kept, tokens.device, self.log_sum_exp)
        tile, chunk = self._sizes(room, tokens)
        if self.order == "logits":
            for first in range(0, len(classes), chunk):
                logits = (tokens @ classes[first : first + chunk].T).float()
                for here in _slices(len(taps.tokens), tile):
                    best.update(here, taps.part(here).of(logits), first)
            return best
        for here in _slices(len(taps.tokens), tile):
            features = taps.part(here).of(tokens.float()).to(classes.dtype)
            for first in range(0, len(classes), chunk):
                best.update(here, features @ classes[first : first + chunk].T, first)
        return best

    def _rescored(self, taps: Taps, tokens: Tensor, rough: Best, errors: Tensor, room: int) -> Best:
        """The best k of the candidates `rough` in float32; in full where another class could be among them.

        A class that is no candidate scored at most the last candidate's rough score, so at most that and the
        error in truth (larvseg.md 5.3).
        """
        best = Best.empty(len(taps.tokens), self.k, tokens.device, False)
        for here in _slices(len(taps.tokens), max(1, room // self._again(2))):
            among = rough.classes[here].sort(dim=1).values  # so that of equal ones the first class wins
            features = taps.part(here).of(tokens)
            exact = torch.bmm(self.classes[among], features[:, :, None])[:, :, 0]
            ordered, places = exact.sort(dim=1, descending=True, stable=True)
            best.scores[here] = ordered[:, : self.k]
            best.classes[here] = among.gather(1, places[:, : self.k])
        if self.kept < len(self.classes):
            limit = rough.scores[:, -1] + taps.of(errors)[:, 0]
            unsure = (best.scores[:, -1] <= limit).nonzero()[:, 0]
            if len(unsure):
                full = self._streamed(taps.part(unsure), tokens, self.classes, self.k, room)
                best.scores[unsure], best.classes[unsure] = full.scores, full.classes
        return best


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


@contextlib.contextmanager
def _float32_sums() -> Iterator[None]:
    """Half-precision products of a GPU are summed in float32, which the error bound rests on."""
    products = torch.backends.cuda.matmul
    before = products.allow_bf16_reduced_precision_reduction
    products.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        products.allow_bf16_reduced_precision_reduction = before


def _check(
    tokens: Tensor, pixels: PixelMap, classes: Tensor, k: int, order: str, precision: str, log_sum_exp: bool
) -> None:
    if tokens.ndim != 2 or classes.ndim != 2 or tokens.shape[1] != classes.shape[1]:
        raise ValueError(
            f"tokens {tuple(tokens.shape)} and classes {tuple(classes.shape)}; (T, D) and (N, D) are needed"
        )
    if len(tokens) != pixels.token_count:
        raise ValueError(f"{len(tokens)} tokens, but the pixels are made of {pixels.token_count}")
    if not 1 <= k <= len(classes):
        raise ValueError(f"the best {k} of {len(classes)} classes; 1 to {len(classes)} can be asked for")
    if order not in get_args(Order) or precision not in get_args(Precision):
        raise ValueError(f"order {order!r}, precision {precision!r}; allowed: {get_args(Order)},"
                         f" {get_args(Precision)}")  # fmt: skip
    if log_sum_exp and precision != "float32":
        raise ValueError("the sum over all classes is computed in float32: set precision to it")
    for name, values in (("tokens", tokens), ("classes", classes)):
        if not all(bool(torch.isfinite(end)) for end in torch.aminmax(values)):
            raise ValueError(f"the {name} hold NaN or infinite values")
