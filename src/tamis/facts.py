"""What a part knows besides arrays: a tree of plain values, in a JSON file beside them."""

from pathlib import Path
from typing import TypeVar

import msgspec

from tamis.config import Config
from tamis.errors import ArtifactError

F = TypeVar("F", bound=Config)


def save_facts(file: Path, facts: Config) -> None:
    """Writes what a part knows besides arrays, as JSON."""
    file.write_bytes(msgspec.json.encode(facts))


def load_facts(file: Path, kind: type[F]) -> F:
    """What `save_facts` wrote. Raises ArtifactError for a file that is not there or says anything else."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtifactError(f"{file}: {error}") from None
