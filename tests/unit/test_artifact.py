import os
from pathlib import Path

import numpy as np
import pytest

import tamis.artifact as module
from tamis.artifact import (
    BundleWriter,
    Run,
    current_name,
    load_array,
    open_bundle,
    prune,
    publish,
    published,
    report_file,
    save_arrays,
)
from tamis.errors import ArtifactError
from tamis.holds import scratch

FACTS = {"code_version": "0", "config_digest": "d", "seed": 1, "trained_to": 0.0}


def write(root: Path, value: int = 1):
    writer = BundleWriter(root)
    save_arrays(writer.folder("recall.popular"), items=np.array([value, 2, 3]), none=np.empty((0, 4), np.float32))
    return writer.finish(FACTS)


def test_a_published_bundle_opens_with_its_arrays_memory_mapped(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    publish(bundle)
    opened = open_bundle(tmp_path)
    assert opened.name == bundle.name == current_name(tmp_path)
    array = load_array(opened.folder("recall.popular"), "items")
    assert array.tolist() == [1, 2, 3]
    assert not array.flags.writeable
    assert load_array(opened.folder("recall.popular"), "none").shape == (0, 4)


def test_an_unfinished_bundle_is_invisible(tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path)
    save_arrays(writer.folder("a"), x=np.arange(3))
    with pytest.raises(ArtifactError, match="no finished bundle"):
        open_bundle(writer.path)
    writer.discard()
    assert not writer.path.exists()


def test_nothing_published_is_an_empty_name_and_a_clear_error(tmp_path: Path) -> None:
    assert current_name(tmp_path) == ""
    with pytest.raises(ArtifactError, match="tamis train"):
        open_bundle(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "recall.popular/items.npy").write_bytes(b"x" * 152), "damaged"),
        (lambda p: (p / "recall.popular/items.npy").unlink(), "missing"),
        (lambda p: (p / "recall.popular/extra.npy").write_bytes(b"x"), "not in the manifest"),
        (lambda p: (p / "bundle.json").write_text("{}"), "missing required field"),
        (lambda p: (p / "bundle.json").write_text((p / "bundle.json").read_text()[:50]), "bundle.json"),
    ],
)
def test_a_damaged_or_foreign_bundle_is_refused(tmp_path: Path, damage, message: str) -> None:
    bundle = write(tmp_path)
    damage(bundle.path)
    with pytest.raises(ArtifactError, match=message):
        open_bundle(bundle.path)


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    file = bundle.path / "recall.popular/items.npy"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ArtifactError, match="damaged"):
        open_bundle(bundle.path)


def test_another_format_asks_for_training(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    manifest = bundle.path / "bundle.json"
    manifest.write_text(manifest.read_text().replace('"format": 3', '"format": 99'))
    with pytest.raises(ArtifactError, match="format 99"):
        open_bundle(bundle.path)


def test_a_later_format_is_named_whatever_it_has_in_it(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    manifest = bundle.path / "bundle.json"
    manifest.write_text(manifest.read_text().replace('"format": 3', '"format": 4, "never_heard_of": []'))
    with pytest.raises(ArtifactError, match="format 4, this version reads 3; train again"):
        open_bundle(bundle.path)


def test_files_and_the_names_of_folders_are_on_disk_before_the_manifest(tmp_path: Path, synced: list[Path]) -> None:
    path = write(tmp_path).path
    manifest = synced.index(path / ".bundle.json")
    folder = path / "recall.popular"
    assert {path, folder, folder / "items.npy", folder / "none.npy"} <= set(synced[:manifest])
    assert path in synced[manifest:]


def test_publishing_again_swaps_the_name(tmp_path: Path) -> None:
    first, second = write(tmp_path), write(tmp_path, 9)
    publish(first)
    publish(second)
    assert current_name(tmp_path) == second.name
    assert not list(tmp_path.glob(".CURRENT*"))


def left(root: Path) -> set[str]:
    return {p.name for p in root.iterdir() if p.is_dir() and not p.is_symlink()}


def test_prune_keeps_those_published_last_whatever_was_held_back_since(tmp_path: Path) -> None:
    served = [write(tmp_path, n) for n in range(4)]
    for bundle in served:
        publish(bundle)
    held_back = sorted(write(tmp_path, n).name for n in range(3))
    for name in held_back:
        report_file(tmp_path / name).write_text("{}")
    gone = prune(tmp_path, keep=2)
    assert left(tmp_path) == {served[2].name, served[3].name, held_back[-1]}
    assert set(gone) == {served[0].name, served[1].name, *held_back[:-1]}
    assert published(tmp_path) == [served[2].name, served[3].name]


def test_prune_never_takes_the_served_one_nor_one_that_is_being_written(tmp_path: Path) -> None:
    first, second = write(tmp_path), write(tmp_path)
    publish(second)
    publish(first)  # rolled back
    young, abandoned = BundleWriter(tmp_path), BundleWriter(tmp_path)
    os.utime(abandoned.path, (0, 0))
    prune(tmp_path, keep=1)
    assert left(tmp_path) == {first.name, young.name}


def test_prune_spares_what_another_training_is_at_work_on_for_days(tmp_path: Path) -> None:
    publish(served := write(tmp_path))
    run = Run(code_version="1", config_digest="c", data_digest="d", choice="all", earlier="")
    working = BundleWriter(tmp_path, run)
    os.utime(working.path, (0, 0))
    assert prune(tmp_path, keep=1) == []
    working._let_go()  # as the system does when a process ends
    assert prune(tmp_path, keep=1) == [working.name]
    assert left(tmp_path) == {served.name}


def test_a_bundle_that_was_finished_just_before_it_was_to_be_resumed_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(code_version="1", config_digest="c", data_digest="d", choice="all", earlier="")
    first = BundleWriter(tmp_path, run)
    (first.folder("features") / "a").write_text("a", encoding="utf-8")
    hold = module.hold

    def finished_first(folder: Path) -> int:
        monkeypatch.setattr(module, "hold", hold)
        first.finish(FACTS)
        first.close()
        return hold(folder)

    monkeypatch.setattr(module, "hold", finished_first)
    assert BundleWriter.resume(tmp_path, run) is None
    assert open_bundle(first.path).folder("features").is_dir()


def test_what_was_finished_and_not_judged_is_resumed_and_what_was_judged_is_not(tmp_path: Path) -> None:
    run = Run(code_version="1", config_digest="c", data_digest="d", choice="all", earlier="")
    first = BundleWriter(tmp_path, run)
    (first.folder("recall.popular") / "a").write_text("a", encoding="utf-8")
    first.done("recall.popular")
    (first.folder("catalog") / "b").write_text("b", encoding="utf-8")
    finished = first.finish(FACTS)
    assert open_bundle(first.path).manifest == finished.manifest  # what the run notes of itself is not foreign
    assert first.leave()  # as when judging is interrupted
    again = BundleWriter.resume(tmp_path, run)
    assert again is not None
    assert not (again.path / "bundle.json").exists()
    assert not (again.path / "catalog").exists()  # it is written once more
    assert again.finish(FACTS).manifest.files.keys() == {"recall.popular/a"}
    report_file(again.path).write_text("{}", encoding="utf-8")
    assert not again.leave()
    assert BundleWriter.resume(tmp_path, run) is None
    assert open_bundle(again.path).manifest.files.keys() == {"recall.popular/a"}


def test_a_run_without_a_finished_part_leaves_nothing(tmp_path: Path) -> None:
    run = Run(code_version="1", config_digest="c", data_digest="d", choice="all", earlier="")
    first = BundleWriter(tmp_path, run)
    first.folder("recall.popular")
    (first.path / ".run" / ".recall.two_tower.npz").write_text("half", encoding="utf-8")
    assert not first.leave()
    assert not first.path.exists()


def test_a_run_stopped_in_its_first_part_leaves_how_far_that_is(tmp_path: Path) -> None:
    run = Run(code_version="1", config_digest="c", data_digest="d", choice="all", earlier="")
    first = BundleWriter(tmp_path, run)
    first.checkpoint("recall.two_tower").write_text("epoch 3", encoding="utf-8")
    assert first.leave()
    again = BundleWriter.resume(tmp_path, run)
    assert again is not None
    assert again.checkpoint("recall.two_tower").read_text(encoding="utf-8") == "epoch 3"


def test_prune_spares_what_another_training_still_judges_and_clears_up_after_killed_ones(tmp_path: Path) -> None:
    first, second, served = sorted((write(tmp_path) for _ in range(3)), key=lambda bundle: bundle.name)
    publish(served)
    (tmp_path / ".CURRENT-3fa91c").symlink_to("nowhere")
    (tmp_path / ".PUBLISHED").write_text("half")
    assert prune(tmp_path, keep=1) == []
    assert left(tmp_path) == {first.name, second.name, served.name}
    assert sorted(path.name for path in tmp_path.glob(".*")) == []
    assert current_name(tmp_path) == served.name


def test_a_working_folder_goes_with_its_training_and_spares_those_of_others(tmp_path: Path) -> None:
    killed = tmp_path / ".scratch-0123"
    killed.mkdir()
    with scratch(tmp_path) as first, scratch(tmp_path) as second:
        assert set(tmp_path.iterdir()) == {first, second}
        served = write(tmp_path)
        publish(served)
        prune(tmp_path, keep=1)
        assert {first, second} < set(tmp_path.iterdir())
    assert left(tmp_path) == {served.name}
    with pytest.raises(KeyError), scratch(tmp_path):
        raise KeyError
    assert not list(tmp_path.glob(".scratch-*"))


def test_a_folder_from_before_publications_were_written_down_knows_the_served_one(tmp_path: Path) -> None:
    assert published(tmp_path) == []
    publish(bundle := write(tmp_path))
    (tmp_path / "PUBLISHED").unlink()
    assert published(tmp_path) == [bundle.name]


def test_object_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="object array"):
        save_arrays(tmp_path, x=np.array([{}], object))
