"""`python -m fxsparse` is the command `fxsparse`."""

from fxsparse.tools.cli import main

if __name__ == "__main__":
    main()
