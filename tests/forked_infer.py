"""Runs of `infer.py` that begin at once: each is forked from this process, which has imported all.

Reads arguments of a run from each line of the input, as JSON; prints the run's process id, and once it has
ended its exit code (negative: the signal that killed it). What runs print goes to a log.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import histo.cohort.command
import histo.run.batch  # noqa: F401  what a run imports
from histo.cli import main

if __name__ == "__main__":
    log = os.open(Path(sys.argv[1]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.argv = ["infer.py", *json.loads(line)]
            main("infer")
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
