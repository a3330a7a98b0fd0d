"""How long a new process takes to its first alignment: compiling everything, and with the programs of the first run.

    python benchmarks/startup.py

Runs ``gradalign align`` on the bundled recording in fresh processes with an empty compilation cache, then again with
the cache that the first run left. Prints seconds by the wall clock; run it on an idle machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples"
BARS_S = {"first": 15.0, "second": 6.0}


def once(folder: Path, model: str) -> float:
    """Seconds of one process, which writes into ``folder`` and keeps its programs there."""
    command = [sys.executable, "-m", "gradalign", "align", EXAMPLE / "example.wav", EXAMPLE / "example.txt"]
    command += ["--model", model, "-o", folder / "out.TextGrid", "--overwrite", "--quiet"]
    environment = os.environ | {"GRADALIGN_CACHE": str(folder)}
    started = time.perf_counter()
    subprocess.run(command, check=True, env=environment)
    return time.perf_counter() - started


def main() -> int:
    """Measure, print, and return 1 if a bar is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="en-us", help="name or folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        seconds = {"first": once(Path(name), args.model)}
        seconds["second"] = min(once(Path(name), args.model) for _ in range(3))
    for run, bar in BARS_S.items():
        print(f"{run} process: {seconds[run]:5.1f} s (bar {bar:g} s) {'met' if seconds[run] <= bar else 'MISSED'}")
    return int(any(seconds[run] > bar for run, bar in BARS_S.items()))


if __name__ == "__main__":
    sys.exit(main())
