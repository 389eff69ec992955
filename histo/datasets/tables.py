"""CSV files that a user wrote."""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd

from histo.errors import DatasetError

MAX_BYTES = 1 << 28
# pandas takes hours to tell many columns of one name apart.
_MAX_COLUMNS = 1000
_MAX_HEADER = 1 << 16


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV (comma, semicolon or tab; UTF-8) as stripped strings, column names in lower case.

    An empty file gives a table without columns. Raises DatasetError where it is no CSV.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline(_MAX_HEADER)
        separator = max(",;\t", key=header.count)
        if len(header) == _MAX_HEADER or header.count(separator) >= _MAX_COLUMNS:
            raise ValueError(f"more than {_MAX_COLUMNS} columns")
        with warnings.catch_warnings():
            # A line with too many values would else lose one of them.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path,
                sep=separator,
                dtype=str,
                keep_default_na=False,
                index_col=False,
                encoding="utf-8-sig",
            )
        table.columns = pd.Index([str(name).strip().lower() for name in table.columns])
        if not table.columns.is_unique:
            raise ValueError("two columns of one name")
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (OSError, ValueError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise DatasetError(f"not a readable CSV ({error})", path=path, fix="Save it as CSV, UTF-8") from None
    for name in table.columns:
        table[name] = table[name].str.strip()
    return table
