"""Small tables that people write themselves: a manifest, pairs of sections."""

from __future__ import annotations

import csv
from collections import Counter
from io import StringIO
from pathlib import Path

import pandas as pd

from histo.errors import ConfigError
from histo.tables.file import listed, some

# Some 100,000 lines.
_MAX_BYTES = 1 << 24
_MAX_COLUMNS = 1000
_FIX = "Save it as CSV with commas or semicolons, in UTF-8, with a name at the head of each column"


def read_written(path: Path, what: str, max_bytes: int = _MAX_BYTES) -> pd.DataFrame:
    """Read a CSV (comma, semicolon or tab, UTF-8) as text; columns in small letters, empty cells "".

    Empty lines are left out; at the end of a line cells may be missing.

    Parameters
    ----------
    what : what errors call it, e.g. "the manifest".
    max_bytes : a larger file is refused.

    Raises
    ------
    ConfigError : it cannot be read, two columns have one name, or a line has more values than there are
        columns.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise ValueError(f"larger than {max_bytes >> 20} MiB")
        text = data.decode("utf-8-sig")
        separator = max(",;\t", key=text.partition("\n")[0].count)
        header, *rows = [row for row in csv.reader(StringIO(text, ""), delimiter=separator) if row] or [[]]
        names = [name.strip().lower() for name in header]
        if not 0 < len(names) <= _MAX_COLUMNS:
            raise ValueError(f"{len(names)} columns")
        long = [f"line {line} has {len(row)}" for line, row in enumerate(rows, 2) if len(row) > len(names)]
        if long:
            raise ValueError(f"{len(names)} columns are named, but {some(long)} values")
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{what} cannot be read ({error})", path=path, fix=_FIX) from None
    twice = [name for name, n in Counter(names).items() if n > 1 and name]
    if twice:
        raise ConfigError(
            f"two columns of {what} are called {listed(twice)}", path=path, fix="Rename or remove one of each"
        )
    # A column without a name, as spreadsheets leave behind, holds nothing that could be asked for.
    records = [dict(zip(names, [*row, *[""] * (len(names) - len(row))], strict=True)) for row in rows]
    return pd.DataFrame(records, columns=[name for name in names if name], dtype=str)
