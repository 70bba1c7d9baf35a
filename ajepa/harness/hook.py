"""The import hook; `ajepa harness enable` copies this file into site-packages, next to a `.pth` file.

The `.pth` line runs at the start of every Python of that environment. So this file is a copy and no import of
`ajepa`: it takes a fraction of a millisecond whatever `ajepa` imports, does not depend on the order in which
`.pth` files are read (an editable install of `ajepa` is itself a `.pth` file), and stays silent if `ajepa`
was uninstalled without the hook. It needs only `sys`; the cures are imported together with a toolkit.
"""

import sys


class BridgeFinder:
    """Finds the modules of the bridged toolkits, with the cures of `ajepa.harness.bridges` around them."""

    def __init__(self):
        self.bridged_packages = set()

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] not in self.bridged_packages:
            return None
        try:
            from ajepa.harness.bridges import cured_spec
        except ModuleNotFoundError as error:
            if error.name not in ("ajepa", "ajepa.harness", "ajepa.harness.bridges"):
                raise
            if "." not in fullname:  # once for each toolkit, not for each of its modules
                sys.stderr.write(
                    f"ajepa is not installed, so {fullname} is imported without its cures. Install ajepa, "
                    f"or delete ajepa-harness.pth and ajepa_harness_hook.py from site-packages.\n"
                )
            return None
        # Only the finders after this one: two hooks in one process must not call each other in a circle.
        behind = sys.meta_path[sys.meta_path.index(self) + 1 :]
        return cured_spec(fullname, path, target, behind)


def active_finder():
    """The finder of this process, from any copy of this file, or None."""
    return next((finder for finder in sys.meta_path if hasattr(finder, "bridged_packages")), None)


def install(*packages):
    """Bridge the top-level `packages` in this process. Safe to call twice."""
    finder = active_finder()
    if finder is None:
        finder = BridgeFinder()
        sys.meta_path.insert(0, finder)
    finder.bridged_packages.update(packages)
