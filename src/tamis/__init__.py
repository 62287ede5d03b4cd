"""tamis: the whole industrial recommender funnel, from interaction logs to a served, explained feed."""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "open"]


def __getattr__(name: str) -> Any:
    """`tamis.open(folder)`: the project in a folder. Loaded when asked for, so that `import tamis` stays light."""
    if name == "open":
        return importlib.import_module("tamis.project").open_project
    raise AttributeError(f"module 'tamis' has no attribute {name!r}")
