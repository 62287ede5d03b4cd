"""Where exported nets lie: in a bundle, or in a folder of their own between `fit` and `save`."""

import shutil
import tempfile
import weakref
from pathlib import Path


class NetFolder:
    """Exported nets on disk. A temporary folder goes when the last reference to the object goes."""

    __slots__ = ("__weakref__", "path")

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def temporary() -> "NetFolder":
        """A new empty folder that is removed with the object."""
        folder = NetFolder(Path(tempfile.mkdtemp(prefix="tamis-net-")))
        weakref.finalize(folder, shutil.rmtree, folder.path, ignore_errors=True)
        return folder

    def copy_to(self, folder: Path) -> None:
        """Copies the graphs and their weights."""
        for pattern in ("*.onnx", "*.weights"):
            for file in sorted(self.path.glob(pattern)):
                shutil.copyfile(file, folder / file.name)
