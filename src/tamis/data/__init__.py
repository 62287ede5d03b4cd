"""Tables, ids, importers, splits and samples: from anybody's logs to arrays."""
