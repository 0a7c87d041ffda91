"""`photochrom bench VERB --help` is quick."""

import subprocess
import sys

import pytest
from photochrom.bench.command import VERBS

HEAVY = {"torch", "matplotlib", "numba", "accelerate"}


@pytest.mark.parametrize("verb", VERBS)
def test_help_imports_nothing_heavy(verb: str) -> None:
    code = f"""
import sys
from photochrom.bench.command import main
try:
    main([{verb!r}, "--help"])
except SystemExit:
    print("imported:", *sorted({HEAVY} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported:"
    assert "--out" in done.stdout or verb == "report"
