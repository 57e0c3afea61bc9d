"""`python -m alphabar.cli` is the command `alphabar`."""

from alphabar.cli.main import main

if __name__ == "__main__":
    main()
