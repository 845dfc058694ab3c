"""The `graft` command: a table of commands that are imported only when one of them runs."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

import click

from graftwork import __version__
from graftwork.errors import GraftworkError, outcome

INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command lives and the line that `graft --help` shows for it."""

    module: str
    attribute: str
    summary: str

    def imported(self) -> ModuleType:
        """The module."""
        return importlib.import_module(f"graftwork.cli.{self.module}")


COMMANDS = {
    "import": Entry("importing", "import_", "Register a checkpoint, an adapter or a dataset."),
    "ls": Entry("artifacts", "ls", "List what the registry holds."),
    "show": Entry("artifacts", "show", "Show one version: its files, tensors and parents."),
    "lineage": Entry("lineage", "lineage", "Draw what a version was made from and what was made from it."),
    "tags": Entry("tagging", "tags", "Read and set tags, the words that artifacts are found by."),
    "alias": Entry("alias", "alias", "Read and move aliases, the names that versions are served under."),
    "private": Entry("visibility", "private", "Hide an artifact from whoever may not read in its namespace."),
    "public": Entry("visibility", "public", "Show a private artifact to everybody."),
    "export": Entry("exporting", "export", "Write a version's files to a folder."),
    "verify": Entry("exporting", "verify", "Hash a version's files again and compare."),
    "adapters": Entry("inspecting", "adapters", "Look into adapters."),
    "merge": Entry("merging", "merge", "Merge models as a recipe says."),
    "sweep": Entry("sweeping", "sweep", "Search a grid of recipe parameters for the best merge."),
    "evaluate": Entry("evaluating", "evaluate", "Measure a version on a dataset or by a command."),
    "extract": Entry("extracting", "extract", "Take what a fine-tune adds to its base: a task vector or a LoRA."),
    "methods": Entry("methods", "methods", "List the merge methods, or the parameters of one."),
    "experts": Entry("experting", "experts", "Make sets of adapters that are routed and served as one model."),
    "quarantine": Entry(
        "marking", "quarantine", "Stop a version, and all that was made of it, from being served and merged."
    ),
    "lift": Entry("marking", "lift", "End the quarantine of a version and of what was made of it."),
    "rebuild": Entry("rebuilding", "rebuild", "Make everything that was made of a version again, without it."),
    "withdraw": Entry("marking", "withdraw", "Delete a version: its files go with a later 'graft gc'."),
    "marks": Entry("marking", "marks", "List what is quarantined and what was withdrawn."),
    "audit": Entry("auditing", "audit", "List who changed what, newest first."),
    "jobs": Entry("jobs", "jobs", "List jobs, show one, follow or cancel it."),
    "gc": Entry("collecting", "gc", "Delete bytes that nothing refers to any more."),
    "schedules": Entry("scheduling", "schedules", "Make jobs again and again, at the times of a cron expression."),
    "worker": Entry("working", "worker", "Carry out jobs of a registry, and make those of its schedules."),
    "tokens": Entry("tokens", "tokens", "Make, list and revoke the tokens that a server asks for."),
    "whoami": Entry("identifying", "whoami", "Say who you are to the registry, and where you may write."),
    "quotas": Entry("quotas", "quotas", "Say how much a namespace may hold."),
    "serve": Entry("serving", "serve", "Serve the registry, merges and inference over HTTP."),
    "demo": Entry("demonstration", "demo", "Train, merge, serve and hot-swap a family of small models."),
}


class Graft(click.Group):
    """A group whose commands are imported on first use and whose failures are one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module; None when there is no such command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(entry.imported(), entry.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command line and exit: 0 ok, 1 failure, 2 usage, 3 not found, 4 conflict, 5 auth, 130 Ctrl-C."""
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
        except GraftworkError as error:
            fail(str(error), outcome(error).exit_code)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            fail(one_sentence(error), error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        except BrokenPipeError:  # whoever read has enough, as `head` has
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as error:
            fail(f"{error.filename or 'the system'}: {error.strerror or error}", 1)
        sys.exit(code if isinstance(code, int) else 0)


def one_sentence(error: click.ClickException) -> str:
    """click's message on one line, with where to read more when the command line was wrong."""
    message = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption) and context is not None and context.parent is None:
        message = f"{message.rstrip('.')} here: options go after the command."
    return message if context is None else f"{message} See '{context.command_path} --help'."


def fail(message: str, code: int) -> NoReturn:
    """Print the one line that tells what went wrong, and exit."""
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


@click.group(
    "graft",
    cls=Graft,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 conflict, 5 not allowed, 130 stopped by Ctrl-C.",
)
@click.version_option(__version__, prog_name="graft", message="%(prog)s %(version)s")
def main() -> None:
    """Register fine-tuned models, merge them, serve them with their adapters.

    Everything is kept in GRAFTWORK_HOME (by default the user's data folder). Commands print what they are asked for on
    stdout, as JSON with --json, and notes and progress on stderr.

    \b
    Example:
        graft import ./llama --name acme/llama
    """


def start() -> None:
    """`graft` as a process of its own.

    What its command is made of lasts until it ends, so the garbage collector does not look through it: not while it is
    imported, and not at the end, where that would take as long as a small merge.
    """
    gc.disable()
    try:
        if entry := COMMANDS.get(sys.argv[1] if len(sys.argv) > 1 else ""):
            entry.imported()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    gc.freeze()
    gc.enable()
    main(prog_name="graft")
