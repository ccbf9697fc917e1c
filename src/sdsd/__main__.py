"""`python -m sdsd` is the command line."""

from sdsd.cli.app import main

if __name__ == "__main__":
    main()
