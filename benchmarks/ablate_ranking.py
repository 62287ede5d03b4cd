"""What thinned negatives, a teacher for pre-ranking, a light rank and searched weights are worth on the demo world.

    python benchmarks/ablate_ranking.py [--users N] [--trials N]

One whole training; then parts of it again beside the others that are kept: the ranker on a share of the negatives, the
three towers with a share of what the ranker says, the light rank in place of the ranker. Each is judged on the held-out
day by the whole funnel. Then the fusion's weights are searched on the validation days (`tamis tune`).
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from _results import result
from tamis.assemble import load_model
from tamis.config import override
from tamis.data.dataset import Dataset
from tamis.data.split import by_time
from tamis.data.write import import_tables
from tamis.evaluate.report import Report
from tamis.evaluate.tune import tune
from tamis.project import create, open_project, oracle_of
from tamis.simulate.world import World, WorldConfig
from tamis.train import Choice, Trained, train

LIGHT = "funnel.prerank.steps.three_tower.distill"
CHANGES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "all negatives": (("rank.heads",), {}),
    "a fifth of the negatives": (("rank.heads",), {"samples.keep_negatives": 0.2}),
    "three towers, no teacher": (("three_tower",), {}),
    "three towers, half teacher": (("three_tower",), {LIGHT: 0.5}),
    "three towers, teacher alone": (("three_tower",), {LIGHT: 1.0}),
    "light rank (fm)": (("light",), {"funnel.rank.steps": {"light": {"kind": "light_rank"}}}),
    "light rank (lr)": (("light",), {"funnel.rank.steps": {"light": {"kind": "light_rank", "model": "lr"}}}),
}


def line(name: str, report: Report, seconds: float) -> None:
    click, light = report.heads.get("click", {}), report.stages["prerank"]
    figures = {
        "AUC click": click.get("auc"),
        "ECE": click.get("calibration_error"),
        "observed": click.get("rate"),
        "predicted": click.get("predicted"),
        "overlap@50": light.get("overlap@50"),
        "kept@50": light.get("kept@50"),
        "correlation": light.get("rank_correlation"),
        "NDCG@10": report.page["ndcg@10"],
        "true rate@10": report.page.get("true rate@10"),
    }
    shown = "  ".join(f"{key} {value:.4f}" for key, value in figures.items() if value is not None)
    print(f"{name:<28} {seconds:6.1f} s  {shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=WorldConfig().users)
    parser.add_argument("--trials", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        feed = Path(folder) / "feed"
        create(feed, "demo")
        world = World.generate(WorldConfig(users=args.users))
        import_tables(world.tables(), feed / "data")
        project, oracle = open_project(feed), oracle_of(world)
        more = {"evaluate.most_users": 1000, "evaluate.most_requests": 5000}
        config = override(project.config, more)

        def run(changes: dict[str, Any], only: tuple[str, ...] = ()) -> Trained:
            """Beside the parts of the first training, which stays as it is."""
            bundles = Path(folder) / f"bundles{len(trained)}" if only else project.bundles
            if only:
                shutil.copytree(project.bundles, bundles, symlinks=True)
            return train(override(config, changes), project.data, bundles, oracle=oracle, choice=Choice(only=only))

        trained: dict[str, Report] = {}
        base = run({})
        line("the whole funnel", base.report, sum(base.seconds.values()))
        for name, (only, changes) in CHANGES.items():
            done = run(changes, only)
            part = next(second for step, second in done.seconds.items() if step.endswith(only[0].split(".")[-1]))
            line(name, done.report, part)
            trained[name] = done.report
        whole, few = (trained[name].heads["click"] for name in ("all negatives", "a fifth of the negatives"))
        result("click AUC with a fifth of the negatives", few["auc"], whole["auc"])
        taught, plain = (trained[f"three towers, {name}"].stages["prerank"] for name in ("half teacher", "no teacher"))
        result("overlap@50 with a teacher", taught["overlap@50"], plain["overlap@50"])
        begun = time.perf_counter()
        dataset = Dataset.open(project.data)
        found = tune(load_model(base.bundle), dataset, by_time(dataset, config.split), args.trials)
        print(
            f"tune, {args.trials} trials on {found.searched} users: {time.perf_counter() - begun:.0f} s; {found.toml}"
        )
        print(f"NDCG@10 on {found.judged} others {found.before:.4f} → {found.after:.4f}", end="; ")
        print(f"difference {found.difference:+.4f}, 95 % interval {found.low:+.4f} … {found.high:+.4f}")
        result("NDCG@10 by searched weights", found.after, found.before)


if __name__ == "__main__":
    main()
