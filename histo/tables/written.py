"""Small tables that people write themselves: a manifest, pairs of sections."""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd

from histo.errors import ConfigError


def read_written(path: Path, what: str) -> pd.DataFrame:
    """Read a CSV (comma or semicolon, UTF-8) as text; columns in small letters, empty cells "".

    Parameters
    ----------
    what : what errors call it, e.g. "the manifest".

    Raises
    ------
    ConfigError : it cannot be read.
    """
    try:
        with warnings.catch_warnings():
            # Lines of more values than there are columns would else be shifted, or lose a value.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                dtype=str,
                keep_default_na=False,
                index_col=False,
                encoding="utf-8-sig",
                sep=None,
                engine="python",
            )
    except (OSError, ValueError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise ConfigError(f"{what} cannot be read ({error})", path=path) from None
    frame.columns = frame.columns.str.strip().str.lower()
    return frame
