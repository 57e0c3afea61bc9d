"""`python -m alphabar` is the command `alphabar`."""

from alphabar.cli.main import main

if __name__ == "__main__":
    main()
