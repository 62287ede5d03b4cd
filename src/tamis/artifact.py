"""Artifacts and bundles: folders of arrays and nets with a manifest, published by one atomic rename.

    bundles/
      CURRENT                    a symbolic link to the bundle that is served
      PUBLISHED                  the names of all bundles that were ever served, one per line, the latest last
      20260131-040000-3fa91c/    one bundle: the set of artifacts of one training run
        bundle.json              the manifest: format, config digest, seed, code version, SHA-256 of every file
        features/…  recall.itemcf/…  rank.heads/…      one folder per artifact

A bundle without `bundle.json` is unfinished and invisible; until it is written and judged it has a hidden folder `.run`
with the facts of the run, the names of the artifacts that are finished, and how far the one at hand is. No pickle
anywhere: arrays are .npy, nets are ONNX.
"""

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from tamis.config import Config
from tamis.errors import ArtifactError
from tamis.holds import hold

FORMAT: Final = 3
MANIFEST: Final = "bundle.json"
CURRENT: Final = "CURRENT"
PUBLISHED: Final = "PUBLISHED"
RUN: Final = ".run"


class Format(msgspec.Struct, frozen=True):
    """All that can be read of a manifest before it is known to be one of this version."""

    format: int


class Manifest(Config, frozen=True):
    """What is inside a bundle and how it came to be. files: relative path → (size in bytes, SHA-256).

    trained_to: nothing at or after this moment was learnt from.   valid_since: what came from then on
    served nets for early stopping and calibration alone; 0 = not noted.
    kept: artifact → the earlier bundle that it was made for, of those that this training took over.
    began_with: the bundle whose weights a full training began with, "" = new ones.
    continues: of an incremental training, the last full bundle before it; "" for a full one.
    """

    format: int
    name: str
    created: float
    code_version: str
    config_digest: str
    seed: int
    trained_to: float
    files: dict[str, tuple[int, str]]
    metrics: dict[str, float] = {}
    valid_since: float = 0.0
    kept: dict[str, str] = {}
    began_with: str = ""
    continues: str = ""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle. `folder(name)` is where the artifact `name` keeps its files."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.manifest.name

    def folder(self, artifact: str) -> Path:
        return self.path / artifact


class Run(Config, frozen=True):
    """A training run that writes a bundle: what it is made of, all of which must be the same to go on with it.

    done: artifacts that are finished.
    """

    code_version: str
    config_digest: str
    data_digest: str
    choice: str
    earlier: str
    done: tuple[str, ...] = ()


class BundleWriter:
    """A bundle being written. Nothing is visible to readers until `publish`.

    With the facts of its `run` it holds its folder against other processes until it is closed, left or discarded; the
    system drops that hold when the process ends, and then another run may go on with what is there (`resume`).
    """

    def __init__(self, root: Path, run: Run | None = None, name: str = "") -> None:
        root.mkdir(parents=True, exist_ok=True)
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        self.root, self.run = root, run
        self.name = name or f"{stamp}-{secrets.token_hex(3)}"
        self.path = root / self.name
        if not name:
            self.path.mkdir()
        self._hold = hold(self.path) if run else -1
        if run and self._hold < 0:
            raise ArtifactError(f"{self.path}: another training is writing it")
        if run and not name:
            (self.path / RUN).mkdir()
            self._note(run)

    @classmethod
    def resume(cls, root: Path, run: Run) -> Self | None:
        """The newest bundle that a run like this one left unfinished or unjudged; None = none.

        What was not finished is gone from it, and a manifest too: it is finished once more.
        """
        for file in sorted(root.glob(f"*/{RUN}/run.json"), reverse=True):
            folder = file.parent.parent
            try:
                if msgspec.structs.replace(_run_of(folder), done=()) != run or report_file(folder).is_file():
                    continue
                writer = cls(root, run, folder.name)
            except (OSError, msgspec.MsgspecError, ArtifactError):
                continue  # damaged, or another training is at work on it
            if writer._go_on():
                return writer
        return None

    def _go_on(self) -> bool:
        """Takes up what is there; False when another training finished or removed it just before it was held."""
        try:
            self.run = _run_of(self.path)  # again: only what is held stands still
        except (OSError, msgspec.MsgspecError):
            self._let_go()
            return False
        (self.path / MANIFEST).unlink(missing_ok=True)
        for path in self.path.iterdir():
            if path.is_dir() and path.name not in (*self.run.done, RUN):
                shutil.rmtree(path)
        return True

    def folder(self, artifact: str) -> Path:
        """A new empty folder for one artifact."""
        path = self.path / artifact
        path.mkdir(parents=True)
        return path

    def checkpoint(self, artifact: str) -> Path:
        """The file in which the training of an artifact may note how far it is."""
        return self.path / RUN / f"{artifact}.npz"

    def done(self, artifact: str) -> None:
        """Notes that an artifact is finished, once its files are on disk."""
        if not self.run:
            return
        for path in (self.path, self.path / artifact, *(self.path / artifact).rglob("*")):
            sync(path)
        self.run = msgspec.structs.replace(self.run, done=(*self.run.done, artifact))
        self._note(self.run)
        self.checkpoint(artifact).unlink(missing_ok=True)

    def _note(self, run: Run) -> None:
        replace_durably(self.path / RUN / "run.json", msgspec.json.encode(run))

    def _let_go(self) -> None:
        if self._hold >= 0:
            os.close(self._hold)
            self._hold = -1

    def finish(self, facts: Mapping[str, Any]) -> Bundle:
        """Hashes every file and writes the manifest; `facts` are the Manifest fields that the caller knows.

        All of it is on disk before the manifest is there. The folder is still held, until `close`.
        """
        files = {}
        for path in (self.path, *sorted(self.path.rglob("*"))):
            sync(path)  # a folder too: a file is not on disk before its name is
            if path.is_file() and self.path / RUN not in path.parents:
                files[path.relative_to(self.path).as_posix()] = (path.stat().st_size, _sha256(path))
        manifest = Manifest(format=FORMAT, name=self.name, created=time.time(), files=files, **facts)
        replace_durably(self.path / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        return Bundle(self.path, manifest)

    def close(self) -> None:
        """Ends the run of a finished bundle that is judged: there is nothing to go on with."""
        shutil.rmtree(self.path / RUN, ignore_errors=True)
        self._let_go()

    def leave(self) -> bool:
        """Lets go of a bundle that is not judged, for `resume` to find; one of which nothing is finished, and of the
        artifact at hand nothing noted, is removed.

        → whether there is something to go on with.
        """
        if report_file(self.path).is_file():
            self.close()
            return False
        if not self.run or not (self.run.done or any((self.path / RUN).glob("[!.]*.npz"))):
            self.discard()
            return False
        self._let_go()
        return True

    def discard(self) -> None:
        """Removes what was written."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._let_go()


def _run_of(folder: Path) -> Run:
    """The run that writes the bundle in a folder."""
    return msgspec.json.decode((folder / RUN / "run.json").read_bytes(), type=Run)


def publish(bundle: Bundle) -> None:
    """Makes `bundle` the CURRENT one of its folder, by one atomic rename. Needs `locked` beside other trainings."""
    root = bundle.path.parent
    names = [name for name in published(root) if name != bundle.name]
    replace_durably(root / PUBLISHED, "".join(f"{name}\n" for name in (*names, bundle.name)).encode())
    pending = root / f".{CURRENT}"
    pending.unlink(missing_ok=True)  # of a process that was killed here
    pending.symlink_to(bundle.path.name)
    os.replace(pending, root / CURRENT)
    sync(root)


def current_name(root: Path) -> str:
    """The name of the published bundle, "" when there is none. Costs one system call."""
    try:
        return os.readlink(root / CURRENT)
    except OSError:
        return ""


def published(root: Path) -> list[str]:
    """The names of the bundles that were published and are still there, the latest last."""
    try:
        names = (root / PUBLISHED).read_text(encoding="utf-8").split()
    except OSError:
        names = [name for name in (current_name(root),) if name]
    return [name for name in names if (root / name / MANIFEST).is_file()]


def open_bundle(path: Path) -> Bundle:
    """The bundle at `path` (a bundle's folder, or a folder of bundles with CURRENT), every file checked by hash.

    Raises ArtifactError when it is missing, unfinished, of another format, has a file that is missing, foreign, cut
    short or changed.
    """
    if (path / CURRENT).is_symlink():
        path = path / current_name(path)
    try:
        raw = (path / MANIFEST).read_bytes()
    except OSError:
        raise ArtifactError(f"{path}: no finished bundle here ({MANIFEST} is missing); run `tamis train`") from None
    try:
        found = msgspec.json.decode(raw, type=Format).format
        if found != FORMAT:
            raise ArtifactError(f"{path}: bundle format {found}, this version reads {FORMAT}; train again")
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.DecodeError as error:
        raise ArtifactError(f"{path / MANIFEST}: {error}") from None
    files = (p.relative_to(path) for p in path.rglob("*") if p.is_file())
    present = {file.as_posix() for file in files if file.parts[0] != RUN} - {MANIFEST}
    if foreign := sorted(present - set(manifest.files)):
        raise ArtifactError(f"{path / foreign[0]}: not in the manifest; the bundle was tampered with")
    for name, (size, digest) in manifest.files.items():
        file = path / name
        if name not in present:
            raise ArtifactError(f"{file}: listed in the manifest but missing")
        if file.stat().st_size != size or _sha256(file) != digest:
            raise ArtifactError(f"{file}: damaged (size or SHA-256 differs from the manifest)")
    return Bundle(path, manifest)


def open_full(path: Path) -> Bundle:
    """The last full bundle of a folder of bundles: CURRENT, or the one that its increments continue."""
    bundle = open_bundle(path)
    return open_bundle(path / bundle.manifest.continues) if bundle.manifest.continues else bundle


def open_named(path: Path, name: str) -> Bundle:
    """One bundle of a folder of bundles. Raises ArtifactError that names those which are there."""
    there = sorted(file.parent.name for file in path.glob(f"[!.]*/{MANIFEST}") if not file.parent.is_symlink())
    if name not in there:
        raise ArtifactError(f"{path}: no bundle {name!r}; there are: {', '.join(there) or 'none; run `tamis train`'}")
    return open_bundle(path / name)


def report_file(bundle: Path) -> Path:
    """Where the report of a bundle's folder is: beside it, written once it was judged."""
    return bundle.with_name(f"{bundle.name}.report.json")


def prune(root: Path, keep: int) -> list[str]:
    """Deletes all but the `keep` bundles that were published last; returns the names of what it deleted.

    Never CURRENT nor the full bundle that it continues, the newest bundle that was not published (somebody may want to
    know why), nor one that another training holds, or that is under a day old and has no report yet: it may be judged
    or resumed. A server goes on with a deleted bundle that it has open. What killed publications left goes too. Needs
    `locked` beside other trainings.
    """
    for pending in (*root.glob(f".{CURRENT}*"), *root.glob(f".{PUBLISHED}*")):
        pending.unlink()
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.is_symlink() and p.name[0] != ".")
    served = published(root)
    held_back = [p.name for p in folders if p.name not in served and report_file(p).is_file()]
    kept = {*served[-keep:], *held_back[-1:], current_name(root), _continued(root)}
    young = {p.name for p in folders if time.time() - p.stat().st_mtime < 86_400} - {*served, *held_back}
    gone = []
    for path in folders:
        if path.name in kept | young or (held := hold(path)) < 0:
            continue
        shutil.rmtree(path, ignore_errors=True)
        os.close(held)
        report_file(path).unlink(missing_ok=True)
        gone.append(path.name)
    return gone


def _continued(root: Path) -> str:
    """The full bundle that CURRENT continues, "" when it is one itself or cannot be read."""
    try:
        return msgspec.json.decode((root / CURRENT / MANIFEST).read_bytes(), type=Manifest).continues
    except (OSError, msgspec.DecodeError):
        return ""


def save_arrays(folder: Path, **arrays: NDArray[Any]) -> None:
    """Writes each array as `<name>.npy`. Object arrays are refused."""
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ArtifactError(f"{folder / name}: an object array cannot be saved")
        with (folder / f"{name}.npy").open("wb") as file:
            npy.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def load_array(folder: Path, name: str) -> NDArray[Any]:
    """The array `<name>.npy`, memory-mapped read-only: processes of one machine share its pages."""
    file = folder / f"{name}.npy"
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file}: {error}") from None
    return array.view(np.ndarray)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def replace_durably(file: Path, content: bytes | Callable[[Path], Any]) -> None:
    """Writes a file so that readers see the old content or the new one, and a crash leaves one of the two.

    content: the bytes, or what writes them into the file whose path it is given.
    """
    pending = file.with_name(f".{file.name}")
    if isinstance(content, bytes):
        pending.write_bytes(content)
    else:
        content(pending)
    sync(pending)
    os.replace(pending, file)
    sync(file.parent)


def folder_durably(folder: Path, inside: Path) -> None:
    """Makes a folder below `inside`, which is there, so that its name and those of its parents are on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    while folder != inside:
        folder = folder.parent
        sync(folder)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
