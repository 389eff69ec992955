"""Columns of a text table (CSV, TSV; plain or gzipped) or a Parquet file, without reading the others."""

from __future__ import annotations

import csv
import gzip
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from histo.errors import TableError

TEXT_SUFFIXES: Final = (".csv.gz", ".tsv.gz", ".txt.gz", ".csv", ".tsv", ".txt")
PARQUET_SUFFIXES: Final = (".parquet", ".pq")
MISSING: Final = ("", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None")

_HEAD_BYTES = 1 << 20
_SHOWN = 5
# More cells than a cohort has; packed files can stand for more rows than memory holds.
_MAX_ROWS = 100_000_000
_DAMAGED = (OSError, EOFError, zlib.error, csv.Error, pa.ArrowException, UnicodeDecodeError)
_AGAIN = "If the file is damaged or cut short, copy or export it again"
_TEXT = pa.dictionary(pa.int32(), pa.string())
_DECIMAL_COMMA = r"^\s*[-+]?\d+,\d+\s*$"


@dataclass(frozen=True)
class TableFile:
    """A table whose header has been read.

    names : the headers, in order, as written. first : the first line of values, by header, as text.
    """

    path: Path
    names: tuple[str, ...]
    first: dict[str, str]
    kind: Literal["text", "parquet"]
    separator: str = ","
    encoding: str = "utf8"

    def find(self, *keys: str) -> str | None:
        """Return the header that means the first of `keys` that there is (see `key`), or None.

        Raises TableError where two headers mean the same.
        """
        for wanted in keys:
            found = [name for name in self.names if key(name) == wanted]
            if len(found) > 1:
                raise TableError(
                    f"the columns {listed(found)} mean the same",
                    path=self.path,
                    fix="Take one of them out of the table",
                )
            if found:
                return found[0]
        return None


def key(header: str) -> str:
    """Return what a header has in common with its other spellings: case, signs and R's dots do not count.

    "Classifier Label" and "Classifier.Label" are one, as are the two characters for micro.
    """
    # A micro sign that was read as Latin-1 by whoever saved the table has this letter before it.
    text = unicodedata.normalize("NFKC", header.replace("Â", "")).casefold().replace("^", "")
    return " ".join("".join(c if c.isalnum() else " " for c in text).split())


def listed(names: Sequence[str], limit: int = 40) -> str:
    """Return names in quotes, separated by commas; the number of those beyond `limit`."""
    text = ", ".join(repr(str(name)) for name in names[:limit])
    return text if len(names) <= limit else f"{text} and {len(names) - limit} more"


def some(texts: Sequence[str], limit: int = 20) -> str:
    """Return mistakes or places in one line; the number of those beyond `limit`."""
    text = "; ".join(texts[:limit])
    return text if len(texts) <= limit else f"{text}; and {len(texts) - limit} more"


def is_table(path: Path) -> bool:
    """Tell by its name whether a file can be a table."""
    return path.name.lower().endswith(TEXT_SUFFIXES + PARQUET_SUFFIXES)


def stem(path: Path) -> str:
    """Return the name of a table without its extension, ".csv.gz" as one."""
    lower = path.name.lower()
    suffix = next((end for end in TEXT_SUFFIXES + PARQUET_SUFFIXES if lower.endswith(end)), "")
    return path.name[: len(path.name) - len(suffix)]


def open_file(path: Path) -> TableFile:
    """Read the header of a table.

    Text is UTF-8, or Latin-1 where it is not; separated by tabs, semicolons or commas, whichever the header
    has most of.

    Raises
    ------
    TableError : the file is empty, cannot be read, or has two columns of one name.
    """
    try:
        if path.name.lower().endswith(PARQUET_SUFFIXES):
            table = TableFile(path, tuple(pq.read_schema(path).names), {}, "parquet")
        else:
            table = _open_text(path)
    except _DAMAGED as error:
        raise TableError(f"the table cannot be read ({error})", path=path, fix=_AGAIN) from None
    twice = [name for name, n in Counter(name for name in table.names if name).items() if n > 1]
    if twice:
        raise TableError(
            f"two columns have the same name: {listed(twice)}", path=path, fix="Rename or remove one of each"
        )
    return table


def read_columns(
    table: TableFile, *, numbers: Sequence[str] = (), texts: Sequence[str] = (), decimal: str = "."
) -> pa.Table:
    """Read some columns: numbers as float64, texts as dictionary-encoded strings, both null where missing.

    Text that stands for "missing" is in `MISSING`.

    Raises
    ------
    TableError : a line has too many or too few values, a number is none, a column is wanted as both, or the
        file is damaged.
    """
    both = [name for name in numbers if name in texts]
    if both:
        raise TableError(
            f"the columns {listed(both)} are to be both numbers and texts",
            path=table.path,
            fix="Name others in mapping.columns",
        )
    try:
        if table.kind == "parquet":
            return _read_parquet(table, numbers, texts)
        return _read_text(table, numbers, texts, decimal)
    except _DAMAGED as error:
        raise TableError(f"the table cannot be read ({error})", path=table.path, fix=_AGAIN) from None


def _open_text(path: Path) -> TableFile:
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise TableError("the text is UTF-16", path=path, fix="Save it as UTF-8")
    if not head.strip():
        raise TableError("the file is empty", path=path, fix="Export the table again")
    lines, encoding = _decode(head)
    if not lines[0].strip():
        raise TableError("the first line is empty", path=path, fix="Begin the table with its header")
    separator = max("\t;,", key=lines[0].count)
    rows = list(csv.reader(lines[:2], delimiter=separator))
    names = tuple(name.strip() for name in rows[0])
    first = dict(zip(names, rows[1], strict=False)) if len(rows) > 1 else {}
    return TableFile(path, names, first, "text", separator, encoding)


def _decode(head: bytes) -> tuple[list[str], str]:
    # The last line may be cut in the middle of a letter.
    whole = head[: head.rfind(b"\n") + 1] or head
    try:
        text, encoding = whole.decode("utf-8-sig"), "utf8"
    except UnicodeDecodeError:
        text, encoding = whole.decode("latin-1"), "latin-1"
    # splitlines() would also split at a Latin-1 0x85.
    return re.split(r"\r\n|\n|\r", text), encoding


def _read_text(table: TableFile, numbers: Sequence[str], texts: Sequence[str], decimal: str) -> pa.Table:
    # Columns go by their place: other headers may be empty.
    places = {name: f"{table.names.index(name)}" for name in (*numbers, *texts)}
    bad: list[str] = []
    n_bad = 0

    def refuse(row: pacsv.InvalidRow) -> str:
        nonlocal n_bad
        n_bad += 1
        if n_bad <= _SHOWN:
            bad.append(f"line {row.number} has {row.actual_columns} values")
        return "skip"

    def read(number_type: pa.DataType, encoding: str) -> pa.Table:
        nonlocal n_bad
        n_bad = 0
        bad.clear()
        reader = pacsv.open_csv(
            pa.input_stream(table.path, compression="gzip" if table.path.suffix.lower() == ".gz" else None),
            # Only a single reader knows the numbers of lines.
            read_options=pacsv.ReadOptions(
                use_threads=False,
                skip_rows=1,
                column_names=[str(i) for i in range(len(table.names))],
                encoding=encoding,
            ),
            parse_options=pacsv.ParseOptions(delimiter=table.separator, invalid_row_handler=refuse),
            convert_options=pacsv.ConvertOptions(
                include_columns=list(places.values()),
                column_types={
                    **{places[name]: number_type for name in numbers},
                    **{places[name]: _TEXT for name in texts},
                },
                null_values=list(MISSING),
                strings_can_be_null=True,
                decimal_point=decimal,
            ),
        )
        batches: list[pa.RecordBatch] = []
        n_rows = 0
        for batch in reader:
            n_rows += batch.num_rows
            if n_rows > _MAX_ROWS:
                raise _too_long(table.path)
            batches.append(batch)
        return pa.Table.from_batches(batches, schema=reader.schema)

    try:
        rows = read(pa.float64(), table.encoding)
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error):
            rows = read(pa.float64(), "latin-1")
        elif "conversion error" in str(error):
            as_text = read(pa.string(), "latin-1")
            raise _not_numbers(table, as_text.select([places[name] for name in numbers]), decimal) from None
        else:
            raise
    if n_bad:
        more = f" and {n_bad - _SHOWN} lines more" if n_bad > _SHOWN else ""
        raise TableError(
            f"the header names {len(table.names)} columns, but {'; '.join(bad)}{more}",
            path=table.path,
            fix="Export the table again, with one value for each column",
        )
    return rows.rename_columns(list(places)).unify_dictionaries()


def _too_long(path: Path) -> TableError:
    return TableError(f"more than {_MAX_ROWS:,} rows", path=path, fix="Give the slides' tables one by one")


def _not_numbers(table: TableFile, columns: pa.Table, decimal: str) -> TableError:
    """Say which values are no numbers, and where."""
    point = r"\." if decimal == "." else ","
    number = rf"^\s*([-+]?(\d+({point}\d*)?|{point}\d+)([eE][-+]?\d+)?|[-+]?(?i:inf|infinity|nan))\s*$"
    found: list[str] = []
    commas = 0
    for place in columns.column_names:
        values = columns.column(place)
        good = pc.fill_null(pc.match_substring_regex(values, number), True)
        rows = pc.indices_nonzero(pc.invert(good)).to_pylist()
        if not rows:
            continue
        texts = values.take(pa.array(rows)).to_pylist()
        if decimal == ".":
            commas += pc.sum(pc.match_substring_regex(pa.array(texts), _DECIMAL_COMMA)).as_py() or 0
        shown = ", ".join(
            f"row {row + 1}: {text!r}" for row, text in zip(rows[:_SHOWN], texts[:_SHOWN], strict=True)
        )
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        found.append(f"column {table.names[int(place)]!r} has values that are no numbers ({shown}{more})")
    fix = "Correct these values"
    if commas:
        fix = "If these are decimal commas, say so with decimal: ',' in the mapping"
    return TableError("; ".join(found), path=table.path, fix=fix)


def _read_parquet(table: TableFile, numbers: Sequence[str], texts: Sequence[str]) -> pa.Table:
    with pq.ParquetFile(table.path) as file:
        if file.metadata.num_rows > _MAX_ROWS:
            raise _too_long(table.path)
        rows = file.read(columns=list(dict.fromkeys((*numbers, *texts))))
    # Text that is no text is found here, not later.
    rows.validate(full=True)
    columns: dict[str, pa.ChunkedArray] = {}
    for name in numbers:
        values = rows.column(name)
        if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
            raise TableError(
                f"column {name!r} holds {values.type}, not numbers",
                path=table.path,
                fix="Write it as numbers, or name another column in mapping.columns",
            )
        columns[name] = values.cast(pa.float64())
    for name in texts:
        values = rows.column(name).cast(pa.string())
        values = pc.if_else(pc.is_in(values, pa.array(MISSING)), pa.scalar(None, pa.string()), values)
        columns[name] = values.dictionary_encode()
    return pa.table(columns).unify_dictionaries()
