"""The words for codes that pages and live messages share: states, severities, ages, connection states, roles.

Receives a language's gettext, hands on plain dictionaries: templates look codes up in them, and the islands receive
them as JSON, so that one catalogue holds every text. The terms are those of docs/glossary.md.
"""

from __future__ import annotations

from collections.abc import Callable

Gettext = Callable[[str], str]
Words = dict[str, dict[str, str]]


def words(_: Gettext) -> Words:
    """Every word list of one language, by name and code."""
    return {
        "state": {
            "alarm": _("Alarm"),
            "warning": _("Warning"),
            "ready": _("Ready"),
            "stale": _("Stale data"),
            "offline": _("Offline"),
            "empty": _("No data yet"),
        },
        "severity": {"critical": _("Critical alarm"), "high": _("Alarm"), "warning": _("Warning")},
        "wrong": {
            "edge_offline": _("The edge agent {name} is offline."),
            "stale": _("no new data"),
            "stale_kit": _("No new data from the equipment."),
            "clear": _("Clear"),
            "latched": _("over, stays until it is cleared"),
            "model_differs": _("The edge uses another version of the kit model."),
        },
        "limit": {
            "lo_lo": _("below the lowest limit"),
            "lo": _("below the low limit"),
            "hi": _("above the high limit"),
            "hi_hi": _("above the highest limit"),
        },
        "bool": {"0": _("No"), "1": _("Yes")},
        "age": {"ms": _("{n} ms"), "s": _("{n} s"), "min": _("{n} min"), "h": _("{n} h"), "d": _("{n} d")},
        "connection": {
            "connecting": _("Connecting"),
            "running": _("Running"),
            "waiting": _("Waiting, will try again"),
            "stopped": _("Stopped: settings are wrong"),
            "unknown": _("Unknown"),
        },
        "role": {
            "administrator": _("Administrator"),
            "instructor": _("Instructor"),
            "technician": _("Technician"),
            "trainee": _("Trainee"),
        },
        "link": {
            "live": _("Live"),
            "waiting": _("Connecting to the hub"),
            "silent": _("No connection to the hub for {age}. The values below are old."),
            "restored": _("The connection to the hub is back."),
            "signed_out": _("You are signed out. Sign in again to go on."),
        },
        "card": {
            "nothing_wrong": _("Nothing is wrong."),
            "more": _("and {n} more"),
            "never": _("no data yet"),
            "mine": _("mine"),
        },
        "value": {"none": _("No valid value"), "never": _("no value yet"), "unknown": _("unknown state {n}")},
        "alarms": {
            "raised": _("Alarm: {name}"),
            "cleared": _("All alarms are over."),
        },
        "strip": {
            "paused": _("Paused"),
            "pause": _("Pause"),
            "resume": _("Go on"),
            "lost": _("{n} samples are missing in this window"),
            "waiting": _("Waiting for samples"),
            "window": _("{n} s window"),
            "full_scale": _("±{n} {unit}"),
            "off_scale": _("off scale"),
        },
        "gap": {
            "stopped": _("the edge agent did not run"),
            "disconnected": _("the equipment could not be read"),
            "overflow": _("the edge was too busy to read everything"),
            "counter_jump": _("samples of the equipment never arrived"),
            "spool_full": _("the edge's storage was full"),
            "disk": _("the edge's disk took nothing"),
            "unreadable": _("the edge's storage was damaged"),
        },
        "trend": {
            "failed": _("The trend could not be read ({status}). It will be tried again."),
            "empty": _("No values in this time range."),
            "gap": _("No data from {from} to {to}"),
            "lost": _("No data from {from} to {to}: {reason}"),
            "lost_count": _("{n} samples lost"),
            "now": _("now"),
            "picture": _("Picture"),
            "low": _("Least"),
            "high": _("Greatest"),
            "time": _("Time"),
            "remove": _("Remove"),
            "remove_named": _("Remove the trend of {name}"),
            "table": _("Values as a table"),
            "describe": _(
                "Trend of {name}. Left and right move in time, plus and minus change the range, End goes back to now."
                " The table below holds the values."
            ),
        },
    }
