"""The command line explains itself, and quickly."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from graftwork.cli.main import COMMANDS, main

HEAVY = {"torch", "transformers", "peft", "numpy", "pydantic", "sqlalchemy", "fastapi", "uvicorn", "rich"}
HELP_OF_EACH = """
import sys
from contextlib import suppress
from graftwork.cli.main import main
for command in ([], *([name] for name in sys.argv[1:])):
    with suppress(SystemExit):
        main([*command, "--help"])
print(*sys.modules, file=sys.stderr)
"""


def modules_of(*names: str) -> set[str]:
    """What a process has imported once it printed the help of `graft` and of the commands `names`."""
    done = subprocess.run([sys.executable, "-c", HELP_OF_EACH, *names], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def commands() -> dict[str, click.Command]:
    """Every command by what is typed for it."""
    context = click.Context(main)
    found: dict[str, click.Command] = {}
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        found[name] = command
        if isinstance(command, click.Group):
            found.update({f"{name} {child}": command.commands[child] for child in command.commands})
    return found


def test_help_imports_nothing_heavy() -> None:
    assert HEAVY & modules_of() == set()


def test_no_commands_help_imports_torch() -> None:
    assert {"torch", "transformers", "peft"} & modules_of(*COMMANDS) == set()


def test_the_summaries_are_those_of_the_commands() -> None:
    told = commands()
    assert {name: entry.summary for name, entry in COMMANDS.items()} == {
        name: (told[name].help or "").splitlines()[0] for name in COMMANDS
    }


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_one_example_that_is_the_command(name: str) -> None:
    lines = (commands()[name].help or "").splitlines()
    examples = [line.strip() for line in lines if line.strip().startswith("graft ")]
    assert len(examples) == 1
    assert examples[0].startswith(f"graft {name} ") or examples[0] == f"graft {name}"


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_option_is_explained(name: str) -> None:
    options = [parameter for parameter in commands()[name].params if isinstance(parameter, click.Option)]
    assert [option.name for option in options if not option.help] == []


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "graftwork.cli", "frobnicate"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "error: No such command 'frobnicate'. See 'graft --help'.\n"
