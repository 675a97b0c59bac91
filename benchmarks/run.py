"""`python benchmarks/run.py`: jobq beside the raw loops of its brokers and beside its peers. See README.md."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this directory's names are no top-level modules

from benchmarks.main import main  # noqa: E402 - the path comes first

if __name__ == "__main__":
    sys.exit(main())
