"""`python -m treering` is `treering`."""

from treering.cli.main import main

main()
