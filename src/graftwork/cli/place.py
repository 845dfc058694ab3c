"""Where a command works: in a registry of this machine, or in that of a server."""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from graftwork.cli.options import Command, home_option
from graftwork.errors import InvalidRequest
from graftwork.settings import Settings, load_settings

if TYPE_CHECKING:
    from graftwork.client import Client
    from graftwork.registry.registry import Registry

T = TypeVar("T")
FIELD = re.compile(r"(query\.|payload\.)?(max_)?(?P<name>\w+)[.]?(?P<rest>.*)")
"""A field of a request as the API names it: where it is, and whether what is wrong is only a part of it."""


@dataclass(frozen=True, slots=True)
class Place:
    """The settings in force, and whether the server of the setting `url` is meant."""

    settings: Settings
    remote: bool

    def __call__(self, local: Callable[[Registry], T], remote: Callable[[Client], T]) -> T:
        """Do the one or the other of two ways to the same answer; what is wrong is told of the option that said it."""
        with told_of_options():
            if self.remote:
                from graftwork.client import Client

                with Client(self.settings.url, self.settings.token) as graft:
                    return remote(graft)
            from graftwork.registry.registry import Registry

            with local_user(), Registry.open(self.settings) as registry:
                return local(registry)

    def refuse(self, what: str) -> None:
        """Raise UsageError for what does not go through a server, if a server is meant."""
        if self.remote:
            reason = f"{what} not go through a server: name a registry of this machine with --home."
            raise click.UsageError(reason, click.get_current_context())


@contextmanager
def told_of_options() -> Iterator[None]:
    """Raise the InvalidRequest of the block about the command's options, where they were made its fields."""
    try:
        yield
    except InvalidRequest as error:
        raise _as_typed(error) from None


def _as_typed(error: InvalidRequest) -> InvalidRequest:
    """The same of the option or the argument that the API's field was made of, if one was."""
    field, _, reason = str(error).removesuffix(".").partition(": ")  # what a job failed with is a sentence alone
    found = FIELD.fullmatch(field)
    for typed in click.get_current_context().command.params if found is not None else ():
        names = {typed.name, *(name.strip("-").replace("-", "_") for name in typed.opts)}
        if found is not None and found["name"] in names:
            label = typed.opts[0] if isinstance(typed, click.Option) else typed.human_readable_name
            return InvalidRequest(field=f"{label} {found['rest']}".strip(), reason=reason)
    return error


def place_option(command: Command) -> Command:
    """`--home` and `--server`, which become the argument `place`."""

    @wraps(command)
    def placed(*arguments: Any, home: Path | None, server: str | None, **options: Any) -> Any:
        return command(*arguments, place=find_place(home, server), **options)

    return _server_option()(home_option(placed))


def local_option(command: Command) -> Command:
    """`--home`, for what is done where the registry is; it refuses a server."""

    @wraps(command)
    def placed(*arguments: Any, home: Path | None, server: str | None, **options: Any) -> Any:
        find_place(home, server).refuse(f"'{click.get_current_context().command_path}' does")
        with local_user():
            return command(*arguments, home=home, **options)

    return _server_option(hidden=True)(home_option(placed))


def local_user() -> AbstractContextManager[None]:
    """Do what is in the block for whoever works at this machine: the audit log has their name, and they may do all."""
    from graftwork.registry.access.access import UNASKED, Access, acting_for
    from graftwork.registry.access.grants import ALL

    try:
        return acting_for(Access(getpass.getuser(), ALL))
    except (KeyError, OSError):  # a user id without a name, as containers have
        return acting_for(UNASKED)


def find_place(home: Path | None, server: str | None) -> Place:
    """The place that the options name, or else the environment. Raises UsageError for two of them."""
    if home is not None and server is not None:
        raise click.UsageError("Name either --home or --server.", click.get_current_context())
    settings = load_settings(home=home, url=server)
    return Place(settings, remote=bool(settings.url) and home is None)


@contextmanager
def registry_of(references: Iterable[str], settings: Settings) -> Iterator[Registry | None]:
    """The registry, if there is one and the references are more than paths."""
    if settings.home.exists() and not all(Path(reference).expanduser().exists() for reference in references):
        from graftwork.registry.registry import Registry

        with Registry.open(settings) as registry:
            yield registry
    else:
        yield None


def _server_option(*, hidden: bool = False) -> Callable[[Command], Command]:
    return click.option(
        "--server",
        metavar="URL",
        hidden=hidden,
        help="Work through this server, with the token GRAFTWORK_TOKEN [default: GRAFTWORK_URL, if it is set].",
    )
