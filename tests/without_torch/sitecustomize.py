"""Hide PyTorch from the commands that tests start, as where it is not installed: transformers takes seconds to import it."""

import sys

sys.modules["torch"] = None  # type: ignore[assignment]
