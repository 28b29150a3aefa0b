"""Makes `python -m gateway` run the `gateway` command."""

from gateway.cli import main

main()
