"""Hide PyTorch from the commands that tests start, as where it is not installed: transformers takes seconds to import it."""

import sys
from importlib.machinery import ModuleSpec, PathFinder


class _WithoutTorch(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None) -> ModuleSpec | None:  # type: ignore[no-untyped-def,override]
        return None if fullname == "torch" else super().find_spec(fullname, path, target)


sys.meta_path = [_WithoutTorch if finder is PathFinder else finder for finder in sys.meta_path]
