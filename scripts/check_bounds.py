"""Check that the lower bounds of pyproject.toml are the versions that are installed here.

scripts/test_versions.sh runs it where uv has installed the lowest versions. A bound that another dependency does not
let uv reach would promise a version that no test has run with.
"""

from __future__ import annotations

import sys
from importlib.metadata import requires, version

from packaging.requirements import Requirement
from packaging.version import Version


def untested_bounds(package: str) -> list[str]:
    """The requirements of `package` whose lower bound is not the installed version, with that version."""
    found = []
    for requirement in map(Requirement, requires(package) or []):
        if requirement.name == package:  # the extra `dev` takes the other extras
            continue
        bounds = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
        installed = version(requirement.name)
        if bounds != [Version(installed)]:
            found.append(f"{requirement}, installed is {installed}")
    return found


if __name__ == "__main__":
    untested = untested_bounds("brickyard")
    if untested:
        sys.exit("These lower bounds are not tested; raise them to what is installed:\n  " + "\n  ".join(untested))
