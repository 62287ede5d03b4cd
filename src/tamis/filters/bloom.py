"""The exposure filter's data structure under the name that callers know; it lives in the core, see `tamis.bloom`."""

from tamis.bloom import Bloom, Generations, parameters, predicted_rate

__all__ = ["Bloom", "Generations", "parameters", "predicted_rate"]
