"""``python -m gradalign`` is the command ``gradalign``."""

import sys

from gradalign.cli import main

if __name__ == "__main__":
    sys.exit(main())
