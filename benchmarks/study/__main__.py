"""Run the study: `command` holds it, as processes that work for it can import that."""

import sys

from benchmarks.study.command import main

if __name__ == "__main__":
    sys.exit(main())
