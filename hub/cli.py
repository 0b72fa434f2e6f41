"""`epip-hub`: run the hub, check its settings, and add what it knows: people, workshops, edges, kits, equipment.

A password never comes in as an argument (every user of the machine could read it); one that is made here is printed
once, alone on stdout (an edge's with its settings), and kept nowhere.
"""

from __future__ import annotations

import argparse
import getpass
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hub import cli_edge, cli_store
from hub.errors import CannotRun, HubError, SettingsInvalid
from hub.settings import load_settings

if TYPE_CHECKING:
    from hub.setup import Hub
    from lab_contract.kit import Label

    Groups = argparse._SubParsersAction[argparse.ArgumentParser]

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; 0 where it succeeded, 1 where it did not and said why, 2 for wrong arguments."""
    arguments = _parser().parse_args(argv)
    command: Command = arguments.command
    try:
        return command(arguments)
    except (SettingsInvalid, CannotRun) as error:
        print(error, file=sys.stderr)
    except HubError as error:
        print(error.detail, file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="epip-hub", description="The hub of the remote lab.")
    groups = parser.add_subparsers(required=True, metavar="COMMAND")

    run = _add(groups, "run", "serve until Ctrl-C", _run)
    run.add_argument(
        "--exit-with-parent", action="store_true", help="stop when stdin ends, which it does when the parent is gone"
    )
    check = _add(groups, "check", "find faults in settings, kit models, data folder and database; no network", _check)
    check.add_argument("--store", action="store_true", help="look at the store too, over the network if it is a server")

    user = _group(groups, "user", "people who may sign in")
    add = _add(user, "add", "add a person; without an option for the password a random one is printed once", _user_add)
    add.add_argument("name", help="to sign in with: 2 to 32 of a-z, 0-9, dot, dash, underscore")
    add.add_argument("--role", required=True, choices=("administrator", "instructor", "technician", "trainee"))
    add.add_argument("--display-name", help="the name to show; left out: the name to sign in with")
    add.add_argument("--language", default="en", choices=("en", "zh", "ru"))
    add.add_argument("--zone", default="UTC", help="IANA time zone, such as Asia/Tashkent")
    password = add.add_mutually_exclusive_group()
    password.add_argument("--ask-password", action="store_true", help="ask for the password at the terminal")
    password.add_argument(
        "--password-stdin", action="store_true", help="read the password from the first line of stdin"
    )
    _add(user, "list", "show everybody", _user_list)

    workshop = _group(groups, "workshop", "sites")
    add = _add(workshop, "add", "add a workshop", _workshop_add)
    add.add_argument("id")
    add.add_argument("--name", required=True, nargs=3, metavar=("EN", "ZH", "RU"))
    add.add_argument("--city", required=True, nargs=3, metavar=("EN", "ZH", "RU"))
    add.add_argument("--zone", required=True, help="IANA time zone, such as Asia/Tashkent")

    kit = _group(groups, "kit", "training kits")
    add = _add(kit, "add", "add a training kit", _kit_add)
    add.add_argument("id")
    add.add_argument("--workshop", required=True)
    add.add_argument("--model", required=True, help="id of a kit model")
    add.add_argument("--edge", required=True, help="the edge agent that reads it")
    add.add_argument("--name", nargs=3, metavar=("EN", "ZH", "RU"), help="left out: the kit model's name")

    cli_store.add_commands(groups, _add)
    cli_edge.add_commands(
        _group(groups, "edge", "edge agents"),
        _group(groups, "equipment", "equipment that publishes over the hub's broker by itself"),
        _add,
    )
    return parser


def _group(groups: Groups, name: str, text: str) -> Groups:
    return groups.add_parser(name, help=text).add_subparsers(required=True, metavar="COMMAND")


def _add(group: Groups, name: str, text: str, command: Command) -> argparse.ArgumentParser:
    parser = group.add_parser(name, help=text)
    parser.add_argument("settings", type=Path, metavar="SETTINGS", help="the hub's settings, hub.toml")
    parser.set_defaults(command=command)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from hub.serve import run

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return run(load_settings(arguments.settings), exit_with_parent=arguments.exit_with_parent)


def _check(arguments: argparse.Namespace) -> int:
    from hub.check import faults, look_at_store

    found = faults(arguments.settings)
    if arguments.store and not found:
        told, found = look_at_store(arguments.settings)
        for line in told:
            print(line)
    for line in found:
        print(line)
    if not found:
        print(f"{arguments.settings}: no faults")
    return 1 if found else 0


@contextmanager
def _hub(arguments: argparse.Namespace) -> Iterator[Hub]:
    from hub.setup import open_hub

    with open_hub(load_settings(arguments.settings)) as hub:
        yield hub


def _user_add(arguments: argparse.Namespace) -> int:
    from hub.accounts.passwords import random_password
    from hub.accounts.person import Role
    from hub.accounts.service import NewPerson

    issued = False
    if arguments.password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif arguments.ask_password:
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != password:
            print("the two passwords differ", file=sys.stderr)
            return 1
    else:
        password, issued = random_password(), True
    new = NewPerson(
        name=arguments.name,
        display_name=arguments.display_name or arguments.name,
        role=Role(arguments.role),
        language=arguments.language,
        zone=arguments.zone,
    )
    with _hub(arguments) as hub:
        hub.accounts.add_person(new, password, issued=issued)
    if issued:
        print(password)
    return 0


def _user_list(arguments: argparse.Namespace) -> int:
    with _hub(arguments) as hub:
        for person in hub.accounts.people():
            password = "issued" if person.issued else "own"
            print(
                f"{person.name}\t{person.role.value}\t{person.display_name}\t{person.language}\t{person.zone}\t"
                f"password: {password}"
            )
    return 0


def _workshop_add(arguments: argparse.Namespace) -> int:
    with _hub(arguments) as hub:
        hub.catalog.add_workshop(
            arguments.id, name=_label(arguments.name), city=_label(arguments.city), zone=arguments.zone
        )
    return 0


def _kit_add(arguments: argparse.Namespace) -> int:
    with _hub(arguments) as hub:
        hub.catalog.add_kit(
            arguments.id,
            workshop=arguments.workshop,
            model=arguments.model,
            edge=arguments.edge,
            name=_label(arguments.name) if arguments.name else None,
        )
    return 0


def _label(texts: Sequence[str]) -> Label:
    from lab_contract.kit import Label

    return Label(en=texts[0], zh=texts[1], ru=texts[2])


if __name__ == "__main__":
    sys.exit(main())
