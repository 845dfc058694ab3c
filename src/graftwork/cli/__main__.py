"""`python -m graftwork.cli` is `graft`."""

from graftwork.cli.main import main

main(prog_name="graft")
