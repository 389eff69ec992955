"""What was corrected in the review of a slide, in the form that `corrected` makes numbers of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from shapely.geometry import Point

from histo.errors import ReviewError
from histo.regions.annotations import Annotations
from histo.results.corrections import AddedCell, CellCorrections
from histo.review.actions import AddCell, DeleteCells, DrawRegion, Scribble, SetClass, standing
from histo.review.ground import draw
from histo.review.log import LOG, read_log


@dataclass(frozen=True)
class Reviewed:
    """The corrections in force of a slide's log.

    drawn : outlines of regions, in their order. stale : how many corrections of cells were made on an earlier
    result and do not apply.
    """

    cells: CellCorrections = field(default_factory=CellCorrections)
    drawn: tuple[DrawRegion, ...] = ()
    stale: int = 0


def read_review(folder: Path, fingerprint: str) -> Reviewed:
    """Read the log of a slide; what was done blinded is for comparing readers, and is left out.

    Parameters
    ----------
    folder : of the slide's results. fingerprint : of its summary.

    Raises
    ------
    ReviewError : the log cannot be read, or holds scribbles: what they find is known to the review alone.
    """
    stands = standing([entry for entry in read_log(folder).entries if not entry.blinded], fingerprint)
    deleted: set[int] = set()
    classes: dict[int, str] = {}
    added: dict[int, AddCell] = {}
    for number, action in stands.corrections:
        if isinstance(action, Scribble):
            raise ReviewError(
                "the regions of this slide were scribbled",
                path=folder / LOG,
                fix="Sign it, and give review/regions-<entry>.geojson as --regions",
            )
        if isinstance(action, AddCell):
            added[-number] = action
        elif isinstance(action, DeleteCells):
            deleted |= {cell for cell in action.cells if cell > 0}
            for cell in action.cells:
                added.pop(cell, None)
        elif isinstance(action, SetClass):
            classes |= {cell: action.cell_class for cell in action.cells if cell > 0}
            for cell in added.keys() & set(action.cells):
                added[cell] = added[cell].model_copy(update={"cell_class": action.cell_class})
    cells = CellCorrections(
        deleted=frozenset(deleted),
        classes={cell: name for cell, name in classes.items() if cell not in deleted},
        added=[AddedCell(cell.cell_class, Point(cell.x_um, cell.y_um)) for cell in added.values()],
    )
    drawn = tuple(action for _, action in stands.corrections if isinstance(action, DrawRegion))
    return Reviewed(cells, drawn, stands.stale)


def with_drawn(
    annotations: Annotations | None, review: Reviewed, folder: Path
) -> tuple[Annotations | None, list[str]]:
    """Return the regions of a slide with what was drawn, and the names of those that are others now."""
    if not review.drawn:
        return annotations, []
    before = {} if annotations is None else dict(annotations.polygons_um)
    after = draw(before, review.drawn)
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    base = Annotations(before, folder / LOG) if annotations is None else annotations
    return replace(base, polygons_um=after, source=folder / LOG), [str(name) for name in changed]
