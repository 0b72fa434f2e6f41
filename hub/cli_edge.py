"""`epip-hub edge` and `epip-hub equipment`: who may use the broker; a part of the command line in `cli.py`.

Settings go to standard output and the password, once, to standard error, so that a file they are sent to holds no
secret; with `--password-only` the password alone goes to standard output.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hub.settings import HubSettings, load_settings

if TYPE_CHECKING:
    from hub.setup import Hub

Add = Callable[..., argparse.ArgumentParser]
PASSWORD_FILE = "edge.password"  # noqa: S105 - the name of a file
CA_FILE = "hub-ca.pem"


def add_commands(edge: Any, equipment: Any, add: Add) -> None:
    """Put the commands into their groups; `add` makes one in a group."""
    new = add(edge, "add", "add an edge agent; prints its settings, and its broker password once", _edge_add)
    new.add_argument("id")
    new.add_argument("--workshop", required=True)
    renew = add(edge, "renew", "give an edge agent a new broker password; the old one ends", _edge_renew)
    renew.add_argument("id")
    revoke = add(edge, "revoke", "shut an edge agent out of the broker now", _edge_revoke)
    revoke.add_argument("id")
    add(edge, "list", "show every edge agent", _edge_list)
    for parser in (new, renew):
        parser.add_argument(
            "--password-only", action="store_true", help="print the password alone on stdout, no settings"
        )

    new = add(equipment, "add", "add an equipment account; prints its broker password once", _equipment_add)
    new.add_argument("id")
    new.add_argument("--workshop", required=True)
    renew = add(equipment, "renew", "give an equipment account a new broker password", _equipment_renew)
    renew.add_argument("id")


def _edge_add(arguments: argparse.Namespace) -> int:
    return _issue(arguments, lambda hub: hub.catalog.add_edge(arguments.id, workshop=arguments.workshop))


def _edge_renew(arguments: argparse.Namespace) -> int:
    return _issue(arguments, lambda hub: hub.catalog.renew_edge_password(arguments.id))


def _issue(arguments: argparse.Namespace, make: Callable[[Hub], str]) -> int:
    from hub.catalog.service import edge_user
    from hub.setup import open_hub

    settings = load_settings(arguments.settings)
    # What cannot be printed must fail before the password is made.
    text = "" if arguments.password_only else edge_settings(settings, arguments.id)
    with open_hub(settings) as hub:
        password = make(hub)
        user = edge_user(arguments.id)
        _enrol(settings, hub, user, password, again="edge renew")
        kits = [hub.catalog.kit(kit) for edge in hub.catalog.edges() if edge.id == arguments.id for kit in edge.kits]
    if arguments.password_only:
        print(password)
        return 0
    print(
        text + "".join(f'\n[[kits]]\nid = "{kit.id}"\nmodel = "{kit.model.id}"\n' for kit in kits), end="", flush=True
    )
    print(f"Password of {user}, shown this once, for the file {PASSWORD_FILE}: {password}", file=sys.stderr)
    return 0


def edge_settings(settings: HubSettings, edge: str) -> str:
    """The settings file of an edge agent, without its kits. Raises BrokerUnavailable for a certificate not readable."""
    from hub.broker.choose import edge_url, tls_is_used
    from hub.catalog.service import edge_user

    lines = [
        f"# Settings of the edge agent {edge}, to be saved as edge.toml beside the file with its password.",
        f'edge = "{edge}"',
        "",
        "[hub]",
        f'url = "{edge_url(settings)}"',
        f'user = "{edge_user(edge)}"',
        f'password_file = "{PASSWORD_FILE}"',
    ]
    if tls_is_used(settings):
        lines += [
            "# The certificate of the authority that signed the broker's; leave the key out where the PC trusts it.",
            f'ca_file = "{CA_FILE}"',
        ]
    return "\n".join([*lines, ""])


def _enrol(settings: HubSettings, hub: Hub, user: str, password: str, *, again: str) -> None:
    """At a broker that wants the password itself; the running hub takes care of every other."""
    from hub.broker.choose import enrols_by_plugin, hub_access

    if not enrols_by_plugin(settings):
        return
    from hub.broker.base import BrokerUnavailable
    from hub.broker.dynsec import DynamicSecurity

    account = next(account for account in hub.catalog.accounts() if account.user == user)
    try:
        with DynamicSecurity(hub_access(settings)) as control:
            control.enrol(account, password)
    except BrokerUnavailable as error:
        text = f"{user} is in the catalog but not at the broker; mend this, then `epip-hub {again}`: {error}"
        raise BrokerUnavailable(text) from error


def _edge_revoke(arguments: argparse.Namespace) -> int:
    from hub.broker.choose import enrols_by_plugin, hub_access
    from hub.catalog.service import edge_user
    from hub.clock import SystemClock
    from hub.setup import open_hub

    settings = load_settings(arguments.settings)
    with open_hub(settings) as hub:
        hub.catalog.revoke_edge(arguments.id, at_ns=SystemClock().time_ns())
    if enrols_by_plugin(settings):
        from hub.broker.dynsec import DynamicSecurity

        # Now, also where no hub runs to do it.
        with DynamicSecurity(hub_access(settings)) as control:
            control.remove(edge_user(arguments.id))
    return 0


def _edge_list(arguments: argparse.Namespace) -> int:
    from hub.setup import open_hub

    with open_hub(load_settings(arguments.settings)) as hub:
        for edge in hub.catalog.edges():
            state = "active"
            if edge.revoked_ns is not None:
                state = f"revoked {datetime.fromtimestamp(edge.revoked_ns // 10**9, UTC):%Y-%m-%d %H:%M:%S} UTC"
            print(f"{edge.id}\t{edge.workshop}\t{state}\t{', '.join(edge.kits)}")
    return 0


def _equipment_add(arguments: argparse.Namespace) -> int:
    return _issue_equipment(
        arguments, lambda hub: hub.catalog.add_equipment_account(arguments.id, workshop=arguments.workshop)
    )


def _equipment_renew(arguments: argparse.Namespace) -> int:
    return _issue_equipment(arguments, lambda hub: hub.catalog.renew_equipment_password(arguments.id))


def _issue_equipment(arguments: argparse.Namespace, make: Callable[[Hub], str]) -> int:
    from hub.catalog.service import equipment_user
    from hub.setup import open_hub

    settings = load_settings(arguments.settings)
    with open_hub(settings) as hub:
        password = make(hub)
        _enrol(settings, hub, equipment_user(arguments.id), password, again="equipment renew")
    print(password)
    return 0
