"""Run the study; see `command`. Workers import their functions from there: they cannot from here."""

import sys

from benchmarks.study.command import main

if __name__ == "__main__":
    sys.exit(main())
