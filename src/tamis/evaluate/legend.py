"""What the words of a report mean, one line each."""

from collections.abc import Iterator, Mapping
from typing import Final

from tamis.evaluate.report import Report

WORDS: Final[Mapping[str, Mapping[str, str]]] = {
    "Recall channels": {
        "union": "all channels together, as they leave recall",
        "recall@k": "share of a user's relevant items among the first k that the channel finds",
        "gain@k": "what the union's recall@k would lose without the channel, the others taking its places",
        "only_here": "share of the relevant items that no other channel found",
        "rows": "items found, on average",
        "index_recall": "share of the exact answer that the index of vectors found when it was built",
    },
    "Stages": {
        "rows": "items that leave the stage, on average",
        "recall": "share of the relevant items that leave the stage",
        "survival": "the same of those that recall had found: what the later stages lose of what could be shown",
        "best true rate@10": "true click rate of the ten best that leave the stage; only a simulated world has it",
        "overlap@k": "share of the ranker's best k that are among the pre-ranker's best k",
        "kept@k": "share of the ranker's best k that pre-ranking lets through",
        "rank_correlation": "Spearman's, between the two orders: 1 = the same, 0 = nothing in common",
    },
    "Heads": {
        "auc": "chance that a row where it happened is predicted higher than one where it did not; 0.5 = a guess",
        "gauc": "the same within each user's rows",
        "log_loss": "of the predicted probabilities; lower is better",
        "calibration_error": "how far predicted and observed rates are apart, on average over ten bins",
        "rate": "share of the rows where it happened",
        "mae": "mean absolute error, in stars",
        "mae_seconds": "mean absolute error, in seconds",
        "rank_correlation": "Spearman's, between what was predicted and what happened",
        "mean": "of what happened",
        "mean_seconds": "of what happened",
        "predicted": "mean prediction",
        "rows": "logged items that it was judged on",
    },
    "Page": {
        "tamis": "the page that the whole funnel gives",
        "popular": "the items with most positive actions before the training ended, age not counting",
        "random": "any items",
        "oracle": "the items that the user truly likes best; only a simulated world has it",
        "… alone": "what one channel finds, in its own order; of `popular` too, which counts as it is configured",
        "ndcg@10": "relevant items among the first ten, counting more the higher they are; 1 = all of them on top",
        "recall@10": "share of a user's relevant items among the first ten",
        "hit@10": "share of the users with a relevant item among the first ten",
        "diversity": "share of the pairs of items on a page that differ in category",
        "authors": "different authors per place of a page",
        "new_share": "share of the places with an item younger than evaluate.new_days",
        "coverage": "share of the catalogue that is on some page",
        "true rate@10": "true click rate of the first ten; only a simulated world has it",
    },
    "Milliseconds per request": {
        "p50": "half of the requests took less",
        "p99": "99 of 100 requests took less",
    },
    "Features in the training rows": {
        "coverage": "share of the rows where the feature has a value",
        "distinct": "different values; of the history, entries on average",
    },
}


def legend(report: Report) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(title of a table, (word, meaning) of those that occur in it), in reading order."""
    for title, rows in report.tables():
        names = {*rows, *(name for row in rows.values() for name in row)}
        if found := [(word, means) for word, means in WORDS[title].items() if any(_is(word, name) for name in names)]:
            yield title, found


def _is(word: str, name: str) -> bool:
    """Whether a name of the report is this word, where k stands for a number of places and … for a channel."""
    if word.endswith("@k"):
        return name.startswith(word[:-1])
    return name.endswith(word[1:]) if word.startswith("…") else name == word
