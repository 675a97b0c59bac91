"""`python benchmarks/profile.py drain --broker redis`: where the microseconds of a job go.

Enqueues or drains in this process, on the loop that a worker would use, and prints the hottest functions by their own
time. `--how calls` is cProfile: exact counts, but only the event loop's thread, and Python calls look dearer than they
are. `--how samples` looks at all threads every millisecond: true proportions, and C functions count for their callers.
Both print the CPU time of every thread, measured without a profiler in a run of its own.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this directory's names are no top-level modules

from benchmarks.profiling import main  # noqa: E402 - the path comes first

if __name__ == "__main__":
    main()
