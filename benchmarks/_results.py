"""What every benchmark says at its end, for people and for `tamis bench`."""

import json
import os
from pathlib import Path
from typing import NamedTuple

DATA = Path(os.environ.get("TAMIS_DATA", Path(__file__).parents[2] / "shared" / "data"))


class Figure(NamedTuple):
    """What `result` takes, from the parts of a script that has several."""

    name: str
    ours: float
    peer: float | None
    unit: str
    wanted: str


def result(name: str, ours: float, peer: float | None = None, unit: str = "", wanted: str = "") -> None:
    """One figure. peer: the other side's in the same run and unit; the ratio is ours over theirs."""
    ratio = ours / peer if peer else None
    print(
        "RESULT", json.dumps({"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, "wanted": wanted})
    )


def data(name: str, inside: Path = DATA) -> Path:
    """The folder of a real data set; stops the script with a reason where it is absent."""
    folder = inside / name
    if not folder.is_dir():
        raise SystemExit(
            f"{folder}: this benchmark needs the data set {name}; set TAMIS_DATA to the folder of data sets"
        )
    return folder
