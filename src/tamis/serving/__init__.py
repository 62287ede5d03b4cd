"""The server: an engine without transport, and its transports."""
