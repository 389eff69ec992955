"""What the text of a class says: whether a cell is one of some kind, is not, or cannot be told."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_PARTS = re.compile(r"[:,;/|&+]|(?<=-)\s")
_NEGATIVE = ("negative", "neg")


def means(
    text: str, names: Sequence[str], not_names: Sequence[str] = (), *, marker: bool = False
) -> bool | None:
    """Tell whether the text of a class means one of `names`; None where it cannot be told.

    Case, a "+" and "cell" at the end do not count. The whole text decides first (`names`, then `not_names`),
    then its parts between ":", ",", ";", "/", "|", "&" and "+": one that is a name means yes. A name that
    stands in the text otherwise cannot be told, unless it is negated ("CD8-", "non-tumour", "CD8 negative").

    Parameters
    ----------
    marker : names are markers, so that "CD8: Negative" cannot be told. Without it (kinds of cells), the base
        class of "Tumor: Negative" holds: a tumour cell that is negative for something else.
    """
    if same(text, names):
        return True
    if same(text, not_names):
        return False
    wanted = {_plain(name) for name in names}
    whole = _plain(text)
    parts = [_plain(part) for part in _PARTS.split(text)]
    if any(part in wanted for part in parts):
        return None if marker and any(part in _NEGATIVE for part in parts) else True
    unclear = False
    for name in wanted:
        for found in re.finditer(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", whole):
            before, after = whole[: found.start()], whole[found.end() :]
            negated = re.search(r"\b(non|not|no)[\s-]*$", before) or re.match(r"-($|[^\w])|\s*neg", after)
            unclear = unclear or not negated
    return None if unclear else False


def same(text: str, names: Sequence[str]) -> bool:
    """Tell whether a text, as a whole, is one of `names`; see `means` for what does not count."""
    return _plain(text) in {_plain(name) for name in names}


def _plain(text: str) -> str:
    """Return a text without case, "+", "cell(s)" at its end, and with "T cell" for "T-cell"."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("+", " ").replace("t-cell", "t cell")
    return re.sub(r"\s+cells?$", "", " ".join(text.split()))
