"""The quality of ranking nets beside their peers, each trained on the same rows in the same run.

    python benchmarks/quality_rank.py [frappe|adult|kuairand|ablation …] [--seeds N] [--first-seed S]

Peers: FuxiCTR (`pip install fuxictr`; left out with a line where it is missing) and torch-rechub.

"frappe" (which app is used in which context). The file holds what was used and nothing else. Each use is joined by two
rows that keep its user and context and have another app, drawn evenly among those that this user never used in that
context (all seven context columns equal); generator seed 2025. All rows are then put in random order by the same
generator and cut 7:2:1 into training, validation and test. FuxiCTR's models have the settings that BARS publishes for
its draw of Frappe (x1): embeddings of 10, batches of 4096, learning rate 1e-3 falling tenfold when the validation AUC
does not rise and a stop after the second such time, embedding regularizer 0.05, dropout 0.4 and batch normalisation;
DCNv2 with 4 cross layers beside 400-400-400, FinalMLP with streams of 400 and 100, 5 heads, and selection by user and
item through 400. Ours were chosen on the validation rows.

"adult" (census; official training and test rows, a tenth of the training rows for early stopping). Two tasks: income
above 50,000, and never married. The marital status, what says it again (relationship) and the sampling weight are left
out. One expert four times as wide is the shared bottom.

"kuairand" (trained to 29 April, tested on 30 April): the ranker of the project template against torch-rechub's MMoE,
PLE and DIN and FuxiCTR's DCNv2, FinalMLP and DIN on the same encoded features: codes, numbers made standard, and the
history as means of its embeddings, or for DIN entry by entry. torch-rechub's DIN and all of FuxiCTR's are one net for
each head. Every net's best epoch is that of the validation rows, those of the last hours of 29 April. "live" and
"frozen" test rows: see quality_kuairand.py. The seconds played, their error and rank correlation, are in
quality_watch_time.py.

"ablation": our net on KuaiRand with one thing changed at a time.

Seeds, if none are asked for: two for "frappe", three for "adult", one for the others. A training depends on its own
seed and on no other.
"""

import argparse

import torch

from _adult import adult
from _frappe import frappe
from _kuairand_rank import ablation, kuairand
from _results import result

PARTS = {"frappe": (frappe, 2), "adult": (adult, 3), "kuairand": (kuairand, 1), "ablation": (ablation, 1)}  # and seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--first-seed", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.only or PARTS:
        part, seeds = PARTS[name]
        for figure in part(range(given.first_seed, given.first_seed + (given.seeds or seeds))):
            result(*figure)


if __name__ == "__main__":
    main()
