"""`python -m d1server` is the command `d1server`."""

from d1server.cli import main

if __name__ == "__main__":
    main()
