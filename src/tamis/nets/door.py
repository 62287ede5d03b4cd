"""The only way from the modules that run without torch to the nets that need it.

A part of the funnel is imported by servers that have no torch installed, so it may not import a net. Its `fit` asks
for the net's module by name here, at the moment of training.
"""

import importlib
from types import ModuleType

from tamis.errors import ConfigError


def nets_module(name: str) -> ModuleType:
    """The module `tamis.nets.<name>`. Raises ConfigError that says what to install when torch or onnx is missing."""
    try:
        return importlib.import_module(f"tamis.nets.{name}")
    except ModuleNotFoundError as error:
        if error.name in ("torch", "onnx"):
            raise ConfigError(f"training a net needs {error.name}: pip install 'tamis[train]'") from None
        raise
