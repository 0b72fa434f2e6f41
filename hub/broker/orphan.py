"""Ends the broker that a killed hub has left behind, and nothing else: stands before the start of our own broker."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from pathlib import Path

log = logging.getLogger(__name__)

PATIENCE_S = 5.0


def end_orphan(pid_file: Path, config_file: Path) -> bool:
    """End the process in `pid_file` if it is a broker that runs with `config_file`; True where there was one.

    Process numbers are used again: whatever else bears the number now is left alone. Only call it while holding what
    two hubs with one data folder cannot both hold (the store), otherwise it would end a living hub's broker.
    """
    try:
        pid = int(pid_file.read_text("ascii"))
    except (FileNotFoundError, ValueError):
        return False
    command = command_line(pid)
    found = "nats-server" in command and str(config_file) in command
    if found:
        log.warning("ending the broker (process %d) that an earlier hub left behind", pid)
        _end(pid, config_file)
    pid_file.unlink(missing_ok=True)
    return found


def _end(pid: int, config_file: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    try:
        os.kill(pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            if str(config_file) not in command_line(pid):
                return
            time.sleep(0.02)
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    except ProcessLookupError:
        return


def command_line(pid: int) -> str:
    """How the process was started; empty where there is none or it cannot be asked."""
    proc = Path(f"/proc/{pid}/cmdline")
    if Path("/proc/self/cmdline").exists():
        try:
            return proc.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            return ""
    if os.name == "nt":
        query = f"(Get-CimInstance Win32_Process -Filter 'ProcessId={pid}').CommandLine"
        ask = ["powershell", "-NoProfile", "-NonInteractive", "-Command", query]
    else:
        ask = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=15, check=False)
    except (OSError, subprocess.TimeoutExpired):
        log.warning("cannot ask what process %d is; leaving it alone", pid)
        return ""
    return answer.stdout
