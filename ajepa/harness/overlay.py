"""Stand-ins for parts of a library, seen only by a toolkit's modules."""

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


def with_names(real: ModuleType, **names: object) -> ModuleType:
    """A module with `names`, and everything else from `real`, which is not changed."""
    overlay = ModuleType(real.__name__, real.__doc__)
    vars(overlay).update(names, __getattr__=functools.partial(getattr, real))
    return overlay


@contextmanager
def importable(*modules: ModuleType) -> Iterator[None]:
    """Let `import` return these modules for their names inside the context."""
    before = {module.__name__: sys.modules.get(module.__name__) for module in modules}
    sys.modules.update({module.__name__: module for module in modules})
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@contextmanager
def attributes(module: ModuleType, **names: object) -> Iterator[None]:
    """Give `module` those of these names that it lacks, inside the context."""
    lacking = {name: value for name, value in names.items() if not hasattr(module, name)}
    vars(module).update(lacking)
    try:
        yield
    finally:
        for name in lacking:
            vars(module).pop(name, None)
