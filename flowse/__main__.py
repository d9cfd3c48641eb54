"""`python -m flowse` is the `flowse` command."""

import sys

from flowse.cli import main

if __name__ == "__main__":
    sys.exit(main())
