"""What a reviewer can do: corrections, undo and redo, signing. One entry of the log each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from histo.cells.table import CELL_CLASSES
from histo.config import RegionName
from histo.errors import ReviewError

Verdict = Literal["accepted", "accepted with corrections", "rejected"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
# What a person draws at one go; larger ones come from files.
MAX_VERTICES = 20_000
MAX_CELLS = 10_000

ReviewerName = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$"),
]
_Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=4000)]
_Coordinate = Annotated[float, Field(ge=-1e6, le=1e6)]
_CellClass = Annotated[
    str, Field(pattern="^(" + "|".join(c.replace("+", r"\+") for c in CELL_CLASSES) + ")$")
]
# A cell of the result by its id, an added one by the negative number of its entry.
_CellIds = Annotated[tuple[int, ...], Field(min_length=1, max_length=MAX_CELLS)]


class _Action(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DeleteCells(_Action):
    """These are no cells."""

    kind: Literal["delete_cells"] = "delete_cells"
    cells: _CellIds


class AddCell(_Action):
    """Here is a cell that was missed; um in the slide's frame."""

    kind: Literal["add_cell"] = "add_cell"
    x_um: _Coordinate
    y_um: _Coordinate
    cell_class: _CellClass


class SetClass(_Action):
    """These cells are of this class."""

    kind: Literal["set_class"] = "set_class"
    cells: _CellIds
    cell_class: _CellClass


class DrawRegion(_Action):
    """This outline belongs to a region ("add": and to no other), or does not belong to it ("remove").

    outline : vertices (x, y) in um of the slide's frame; closed by itself.
    """

    kind: Literal["draw_region"] = "draw_region"
    region: RegionName
    mode: Literal["add", "remove"] = "add"
    outline: Annotated[
        tuple[tuple[_Coordinate, _Coordinate], ...], Field(min_length=3, max_length=MAX_VERTICES)
    ]

    @field_validator("outline")
    @classmethod
    def _has_an_area(cls, outline: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        doubled = sum(
            x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(outline, (*outline[1:], outline[0]), strict=True)
        )
        if len(set(outline)) < 3 or doubled == 0:
            raise ValueError("the outline encloses nothing")
        return outline


class Scribble(_Action):
    """Under this line is this tissue: from such lines the tissue of the whole slide is told.

    line : vertices (x, y) in um of the slide's frame.
    """

    kind: Literal["scribble"] = "scribble"
    region: RegionName
    line: Annotated[tuple[tuple[_Coordinate, _Coordinate], ...], Field(min_length=2, max_length=MAX_VERTICES)]


class SetGate(_Action):
    """On this slide, a marker is positive above this; None goes back to the gate of the batch."""

    kind: Literal["set_gate"] = "set_gate"
    marker: Annotated[str, Field(min_length=1, max_length=100)]
    threshold: float | None


class CountFrame(_Action):
    """The reader's count in a counting frame; a later one of the same frame takes its place.

    x_um, y_um : corner of the square. marks : one (x, y) per CD8+ cell, um in the slide's frame.
    """

    kind: Literal["count_frame"] = "count_frame"
    frame: Annotated[int, Field(ge=1, le=1000)]
    x_um: _Coordinate
    y_um: _Coordinate
    edge_um: Annotated[float, Field(ge=50, le=1000)]
    marks: Annotated[tuple[tuple[_Coordinate, _Coordinate], ...], Field(max_length=MAX_CELLS)]


class Undo(_Action):
    """Take a correction back."""

    kind: Literal["undo"] = "undo"
    entry: Annotated[int, Field(ge=1)]


class Redo(_Action):
    """Make a correction that was taken back again."""

    kind: Literal["redo"] = "redo"
    entry: Annotated[int, Field(ge=1)]


class Sign(_Action):
    """The slide is done: its corrections are locked."""

    kind: Literal["sign"] = "sign"
    name: ReviewerName
    verdict: Verdict
    comment: _Text = ""


class Reopen(_Action):
    """A signed slide is opened for corrections again, and why."""

    kind: Literal["reopen"] = "reopen"
    reason: Annotated[_Text, Field(min_length=1)]


Correction = DeleteCells | AddCell | SetClass | DrawRegion | Scribble | SetGate
_CORRECTIONS = get_args(Correction)
Action = Annotated[
    DeleteCells
    | AddCell
    | SetClass
    | DrawRegion
    | Scribble
    | SetGate
    | CountFrame
    | Undo
    | Redo
    | Sign
    | Reopen,
    Field(discriminator="kind"),
]


class Entry(BaseModel):
    """One line of the log.

    number : 1, 2, ... in the slide's log. at_utc : ISO 8601. by : the reviewer.
    fingerprint : of the result that the reviewer saw; cells are known by their ids in it.
    blinded : whether site, group and the other readers' corrections were hidden.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: Annotated[int, Field(ge=1)]
    at_utc: str
    by: ReviewerName
    fingerprint: str
    blinded: bool = False
    action: Action


@dataclass(frozen=True)
class Standing:
    """What a log amounts to.

    corrections : in force, in their order. undone : those that were taken back, the latest last.
    signed : the entry of the signature, None where the slide is open. stale : how many corrections of cells
    were made on an earlier result; they no longer apply, for the cells are others.
    """

    corrections: tuple[tuple[int, Correction], ...] = ()
    undone: tuple[int, ...] = ()
    signed: Entry | None = None
    stale: int = 0


def standing(entries: Sequence[Entry], fingerprint: str) -> Standing:
    """Return what a log amounts to for the result with this fingerprint."""
    made: dict[int, tuple[Entry, Correction]] = {}
    undone: list[int] = []
    signed: Entry | None = None
    for entry in entries:
        action = entry.action
        if isinstance(action, Undo):
            undone.append(action.entry)
        elif isinstance(action, Redo):
            # Of one reader's entries alone, it may take back what another one took back.
            undone = [number for number in undone if number != action.entry]
        elif isinstance(action, Sign):
            signed = entry
        elif isinstance(action, Reopen):
            signed = None
        elif not isinstance(action, CountFrame):
            made[entry.number] = (entry, action)
    in_force = [(n, entry, action) for n, (entry, action) in made.items() if n not in undone]
    current = [
        (n, action)
        for n, entry, action in in_force
        # What is drawn or gated does not hang on the ids of cells.
        if entry.fingerprint == fingerprint or isinstance(action, (DrawRegion, Scribble, SetGate))
    ]
    return Standing(tuple(current), tuple(undone), signed, len(in_force) - len(current))


def check_action(entries: Sequence[Entry], action: Action) -> None:
    """Raise ReviewError where an action cannot follow these entries."""
    now = standing(entries, "")
    if now.signed is not None and not isinstance(action, Reopen):
        raise ReviewError(
            f"the slide is signed by {now.signed.by} and locked",
            fix="Reopen it, with a reason, to correct it further",
        )
    if isinstance(action, Reopen) and now.signed is None:
        raise ReviewError("the slide is not signed: there is nothing to reopen")
    if isinstance(action, (Undo, Redo)):
        corrections = {entry.number for entry in entries if isinstance(entry.action, _CORRECTIONS)}
        if action.entry not in corrections:
            raise ReviewError(f"entry {action.entry} is no correction")
        if isinstance(action, Undo) == (action.entry in now.undone):
            taken_back = "already" if isinstance(action, Undo) else "not"
            raise ReviewError(f"correction {action.entry} is {taken_back} taken back")
