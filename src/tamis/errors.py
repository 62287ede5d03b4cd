"""Every error that tamis raises on purpose.

    TamisError
    ├── ConfigError      the configuration is wrong: misspelt key, unknown kind, impossible value
    ├── DataError        input data is wrong: missing column, bad file, too many rejected rows
    ├── ArtifactError    a bundle or artifact is missing, damaged, foreign or of another version
    ├── RequestError     a caller asked for something impossible (HTTP 4xx)
    │   ├── NotFound     the thing asked for does not exist
    │   └── TooLarge     the request has more bytes than the server takes
    ├── StepError        a step of the funnel broke its promise (a bug, never an outage)
    ├── StateError       the state store refused or lost a write (disk full, map full, closed)
    ├── Overloaded       the server is at its limit; try again later
    ├── DeadlineExceeded the answer was not ready in the time it had
    └── NotReady         no bundle is loaded yet

A message says what is wrong, where (path, row, field or step) and what was wanted. The command line prints one
line; `serving/wire.py` holds the one table that maps each class to an HTTP status.
"""


class TamisError(Exception):
    """Base of every error that tamis raises on purpose."""


class ConfigError(TamisError):
    """The configuration is wrong; the message carries the path of the key."""


class DataError(TamisError):
    """Input data is wrong; the message names the file, the row or the column."""


class ArtifactError(TamisError):
    """A bundle or an artifact is missing, damaged, foreign or of another version."""


class RequestError(TamisError):
    """A caller asked for something impossible. `field` names the part of the request, "" if it is the whole."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class NotFound(RequestError):
    """The user, item or resource asked for does not exist."""


class TooLarge(RequestError):
    """The request has more bytes than the server takes."""


class StepError(TamisError):
    """A step of the funnel broke its promise: wrong length, duplicate rows, unknown column. A bug, never an outage."""


class StateError(TamisError):
    """The state store could not do what was asked; nothing that raised this was acknowledged."""


class Overloaded(TamisError):
    """The server is at its limit. `retry_after_seconds` says when to come back."""

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceeded(TamisError):
    """The answer was not ready in the time it had."""


class NotReady(TamisError):
    """No bundle is loaded yet, so nothing can be answered."""
