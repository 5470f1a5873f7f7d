"""Checks the versions of the lock files for known vulnerabilities: `make audit`.

pip-audit does the work. It is not in the lock file itself, so that no environment of a job has to hold it.
"""

import json
import subprocess
import sys
import textwrap
from typing import Any

TOOL = ["uv", "tool", "run", "--from", "pip-audit>=2.10,<3", "pip-audit"]
OPTIONS = ["--format", "json", "--progress-spinner", "off", "--require-hashes", "--disable-pip"]
SERVICES = ("pypi", "osv")


def ask(service: str, lock: str) -> tuple[list[dict[str, Any]], str]:
    """Return what a service says of each package, and its problem if it says nothing."""
    done = subprocess.run([*TOOL, "-s", service, *OPTIONS, "-r", lock], capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return [], textwrap.shorten(last, 160)
    # a service that is behind a mirror without this data answers that it knows no package
    known = any("skip_reason" not in package for package in packages)
    return packages, "" if known else "it knows none of the packages"


def check(lock: str) -> int:
    """Print the vulnerabilities; return 0 for none, 1 for some, 2 where packages could not be checked."""
    for service in SERVICES:
        packages, problem = ask(service, lock)
        if not problem:
            break
        print(f"{lock}: the vulnerability service {service} can't be used from here: {problem}", file=sys.stderr)
    else:
        print(f"{lock}: NOT CHECKED; run make audit where a vulnerability service is reachable", file=sys.stderr)
        return 2
    found = 0
    for package in packages:
        for problem in package.get("vulns", ()):
            found += 1
            fixed = ", ".join(problem["fix_versions"]) or "no version yet"
            print(f"{lock}: {package['name']} {package['version']}: {problem['id']}; fixed in {fixed}")
    skipped = [package for package in packages if "skip_reason" in package]
    for package in skipped:
        print(f"{lock}: {package['name']}: not checked: {package['skip_reason']}", file=sys.stderr)
    print(f"{lock}: {len(packages) - len(skipped)} packages checked by {service}, {found} known vulnerabilities")
    return 1 if found else 2 if skipped else 0


if __name__ == "__main__":
    sys.exit(max(map(check, sys.argv[1:])))
