"""Texts of many rows and few values, as pandas categories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa


def categorical(column: pa.ChunkedArray) -> pd.Categorical[str]:
    """Return a dictionary-encoded column (one dictionary for all chunks), with the texts that occur in it."""
    array = column.combine_chunks()
    codes = array.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return from_codes(codes, array.dictionary.to_pylist()).remove_unused_categories()


def from_codes(codes: Any, texts: Sequence[str]) -> pd.Categorical[str]:
    """Return texts by their place in `texts`; -1 is missing."""
    return pd.Categorical.from_codes(codes, categories=pd.Index(list(texts), dtype="str"))


def nothing(size: int) -> pd.Categorical[str]:
    """Return a column without a value."""
    return from_codes(np.full(size, -1, np.int8), [])


def renamed(values: pd.Categorical[str], rename: Callable[[str], str | None]) -> pd.Categorical[str]:
    """Rename every text; two may get the same name, None makes it missing."""
    names = [rename(text) for text in values.categories]
    distinct = list(dict.fromkeys(name for name in names if name is not None))
    place = {name: i for i, name in enumerate(distinct)}
    # The last is for the code -1.
    lookup = np.array([-1 if name is None else place[name] for name in names] + [-1], np.int32)
    return from_codes(lookup[values.codes], distinct)


def by_category(values: pd.Categorical[str], meanings: Sequence[bool | None], missing: bool | None) -> Any:
    """Return a nullable boolean for each row from what its text means."""
    return pd.array([*meanings, missing], dtype="boolean")[values.codes]
