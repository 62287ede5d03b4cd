"""The only way from the modules that run without torch to the nets that need it.

A part of the funnel is imported by servers that have no torch installed, so it may not import a net. Its `fit` asks
for the net's module by name here, at the moment of training.

torch's threads wait for each other by spinning. On a machine that does anything else at the same time that makes two
threads many times slower than one, so they are told to sleep instead, unless the environment says otherwise.
"""

import importlib
import os
from types import ModuleType

from tamis.errors import ConfigError


def nets_module(name: str) -> ModuleType:
    """The module `tamis.nets.<name>`. Raises ConfigError that says what to install when torch or onnx is missing."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, when torch is first imported
    try:
        return importlib.import_module(f"tamis.nets.{name}")
    except ModuleNotFoundError as error:
        if error.name in ("torch", "onnx"):
            raise ConfigError(f"training a net needs {error.name}: pip install 'tamis[train]'") from None
        raise
