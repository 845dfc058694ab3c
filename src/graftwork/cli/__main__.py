"""`python -m graftwork.cli` is `graft`."""

from graftwork.cli.main import start

start()
