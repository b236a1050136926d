"""Run the command line: ``python -m humphrey_trio module:app``."""

import sys

from ._cli._main import main

if __name__ == "__main__":
    sys.exit(main())
