"""Neural nets. torch lives only here; serving uses the exported graphs through `session`."""
