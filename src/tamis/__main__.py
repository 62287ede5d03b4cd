"""`python -m tamis` is the same as `tamis`."""

import sys

try:
    from tamis.cli import main
except KeyboardInterrupt:  # the imports take a second, and Ctrl-C may come in it
    sys.exit(130)

if __name__ == "__main__":
    main()
