"""POP's `novel/`: a class is a unit prototype and the classifier g of the session it was learnt in (pop.md
6.5)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyshot.engine import novel_folder
from anyshot.engine.checkpoints import load_into, load_weights, save_weights
from anyshot.engine.model_folder import WEIGHTS_FILE
from anyshot.engine.novel_folder import NOVEL_FOLDER, StoredClass, check_name
from anyshot.errors import AnyshotError, ArtifactError, WeightsError
from anyshot.ops.projections import two_slopes, unit_prototypes
from anyshot.pop.artifacts import load_head
from anyshot.pop.head import PixelMlp, PrototypeHead
from anyshot.pop.open_model import ModelFacts, PopModel
from anyshot.pop.sessions import Session, SessionHead

CLASSIFIER = "classifier."  # before the names of g's matrices in a class's file
COPIED = ("pop", "no_orthogonality")  # methods whose heads leave base prototypes and f as they are
LENGTH_TOLERANCE = 1e-3  # of a unit prototype


@dataclass(frozen=True, kw_only=True)
class NovelClass:
    """A novel class, and the session it was learnt in: 1, 2, ... in the order of learning."""

    id: int
    name: str
    supports: tuple[str, ...]
    prototype: Tensor  # unit (C,)
    classifier: PixelMlp
    session: int

    @property
    def digest(self) -> str:
        """sha256 (hex) of g: equal for the classes of a session."""
        content = hashlib.sha256()
        for tensor in self.classifier.state_dict().values():
            content.update(tensor.cpu().contiguous().numpy().tobytes())
        return content.hexdigest()

    @property
    def slopes(self) -> tuple[float, float]:
        """c+ and c-: what the logit grows by along the prototype and against it (pop.md 2.2)."""
        with torch.no_grad():
            plus, minus = two_slopes(self.classifier, self.prototype[None])
        return float(plus), float(minus)


def save_class(folder: Path, one: NovelClass, **facts: Any) -> Path:
    """Write the class's two files into `folder`, further facts into the JSON. Returns the weights' path."""
    path = folder / f"{novel_folder.file_stem(one.name)}.safetensors"
    matrices = {CLASSIFIER + name: value for name, value in one.classifier.state_dict().items()}
    card = {
        **facts,
        "system": "pop",
        "kind": "novel_class",
        "id": one.id,
        "name": one.name,
        "shots": len(one.supports),
        "supports": list(one.supports),
        "session": {"number": one.session, "classifier_sha256": one.digest, "time": _now()},
    }
    save_weights(path, {"prototype": one.prototype, **matrices}, card)
    return path


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_class(path: Path) -> StoredClass[NovelClass]:
    """Read one class. Raises ArtifactError or WeightsError."""
    state, _ = load_weights(path, expect={"system": "pop", "kind": "novel_class"})
    facts = novel_folder.read_facts(path)
    try:
        prototype = state.pop("prototype")
        if prototype.ndim != 1 or abs(float(prototype.norm()) - 1) > LENGTH_TOLERANCE:
            raise ValueError(f"`prototype` is no vector of length 1, its shape is {tuple(prototype.shape)}")
        classifier = PixelMlp(channels=len(prototype))
        load_into(classifier, {name.removeprefix(CLASSIFIER): value for name, value in state.items()})
        novel = NovelClass(
            id=facts["id"],
            name=facts["name"],
            supports=tuple(facts["supports"]),
            prototype=prototype,
            classifier=classifier.requires_grad_(False).eval(),
            session=int(facts["session"]["number"]),
        )
    except (KeyError, TypeError, ValueError, WeightsError) as error:
        raise ArtifactError(
            f"{path} is no novel class of POP ({error}); delete it and its .json, and add the class again"
        ) from None
    return StoredClass(path=path, novel=novel, facts=facts)


def problem_of(model: ModelFacts, stored: StoredClass[NovelClass]) -> str | None:
    """Why a class does not fit a model, None where it does."""
    if len(stored.novel.prototype) != model.channels:
        return f"its prototype has {len(stored.novel.prototype)} numbers, the model's have {model.channels}"
    return novel_folder.problem_of(model, stored)


def read_classes(model: ModelFacts, *, without: Collection[str] = ()) -> list[StoredClass[NovelClass]]:
    """The model folder's novel classes, session by session, within one by id; those of the names `without`
    are not read.

    Raises ArtifactError for a class that does not fit the model, and when classes of one session disagree.
    """
    found = novel_folder.read_fitting(
        model, read_class, lambda stored: problem_of(model, stored), without=without
    )
    found.sort(key=lambda stored: (stored.novel.session, stored.novel.id))
    for number, members in groupby(found, key=lambda stored: stored.novel.session):
        first, *others = members
        for one in others:
            if one.novel.digest != first.novel.digest:
                raise ArtifactError(
                    f"{one.path} and {first.path.name} both say that they are of session {number}, but their"
                    " classifiers differ: one of them comes from another folder; remove it and add it again"
                )
    return found


def session_head(model: PopModel, stored: Sequence[StoredClass[NovelClass]]) -> SessionHead:
    """The model's head with these classes, which are ordered as by `read_classes`, on the model's device."""
    sessions = []
    for _, members in groupby(stored, key=lambda one: one.novel.session):
        classes = [one.novel for one in members]
        units = torch.stack([one.prototype for one in classes])
        sessions.append(Session(units=units, classifier=classes[0].classifier))
    head = SessionHead(base=model.network.head, sessions=sessions)
    return head.requires_grad_(False).eval().to(model.device)


def next_session(stored: Sequence[StoredClass[NovelClass]]) -> int:
    """The number of a session that comes after those of these classes."""
    return 1 + max((one.novel.session for one in stored), default=0)


def write_class(model: ModelFacts, novel: NovelClass, **facts: Any) -> StoredClass[NovelClass]:
    """Write a class into the model's folder, with further facts; no other class's file is touched."""
    own = {**facts, **novel_folder.facts_for(model, novel)}
    return read_class(save_class(model.folder / NOVEL_FOLDER, novel, **own))


def copy_head(model: PopModel, folder: Path, *, replace: bool) -> list[StoredClass[NovelClass]]:
    """Take over the novel classes of a head that the workflow has trained, as one session.

    Raises ArtifactError or WeightsError for a head of another model or method; nothing is written then.
    """
    facts = model.facts
    head, card = _read_head(facts, folder)
    own = model.network.head.state_dict()
    given = head.state_dict()
    frozen = [name for name in own if name == "base_emb" or name.startswith("classifier.")]
    if any(not torch.equal(given[name], own[name].cpu()) for name in frozen):
        raise ArtifactError(
            f"{folder} was trained on another base model than {facts.folder} (its base prototypes differ):"
            " take a head of this model, or run pop_novel_update again"
        )
    tables = facts.tables
    names = [tables.table.name_of(number) for number in tables.novel_ids]
    novel_folder.check_stems(names)
    for name in names:
        check_name(facts, name, replace=replace)
    session = next_session(read_classes(facts, without=names))
    units = unit_prototypes(head.novel_emb.detach())
    stored = []
    for number, name, unit in zip(tables.novel_ids, names, units, strict=True):
        supports = tuple(map(str, card.get("supports", {}).get(str(number), ())))
        novel = NovelClass(
            id=number, name=name, supports=supports, prototype=unit, classifier=head.classifier_n,
            session=session,
        )  # fmt: skip
        stored.append(write_class(facts, novel, copied_from=str(folder), method=card["method"]))
    return stored


def _read_head(facts: ModelFacts, folder: Path) -> tuple[PrototypeHead, dict[str, Any]]:
    """A head whose classes can be taken over, and its card."""
    path = folder if folder.suffix == ".safetensors" else folder / WEIGHTS_FILE
    try:
        head, card = load_head(path, tables=facts.tables, split=str(facts.card.split))
    except KeyError as error:
        raise ArtifactError(f"{path} is no head of POP ({error} is missing); give a novel_update") from None
    except AnyshotError as error:
        where = "give the folder of a pop_novel_update, e.g. results/pop/fold0/novel_update/pop/5shot_seed123"
        raise type(error)(f"--head {folder}: {error}; {where}") from error
    method = card.get("method")
    if method not in COPIED or not isinstance(head, PrototypeHead) or not head.novel:
        raise ArtifactError(
            f"--head {folder} was made by the method {method}: only heads of {' and '.join(COPIED)} are"
            " prototypes and a classifier on the model as it is"
        )
    return head, card
