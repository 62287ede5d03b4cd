"""Articles that nobody has met yet, found by their words alone: citeulike-t, item cold start.

    python benchmarks/quality_cold.py [--only MODEL] [--choose]

A fifth of the articles, drawn by a seed, is held out with all their rows; nobody's history has one of them. A user's
question is which of them he has. It is asked twice: only the held-out articles compete ("cold"), or all that he does
not have yet ("all"). Another tenth of the articles is held out as well, and settings were chosen on it: --choose.

What is known of an article: its 50 most frequent words, and a vector of its TF-IDF by the singular vectors of the
articles that are learnt from. The real parts learn and answer.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.linalg import solve
from scipy.sparse import csr_matrix, diags_array
from scipy.sparse.linalg import svds

from _models import by_vectors
from _parts import answers, inputs_of
from _results import data, result
from tamis.data.sources import read_source
from tamis.evaluate.protocols import Interactions, Score, Split, judge
from tamis.features.inputs import Inputs
from tamis.features.spec import FeaturesConfig, HistoryConfig, Id, Tags, Vector
from tamis.index.vectors import VectorsConfig
from tamis.recall.ials import IALSConfig, factorise
from tamis.recall.similar_content import SimilarContent, SimilarContentConfig
from tamis.recall.two_tower import TwoTower, TwoTowerConfig

COLD, CHOOSING = 0.2, 0.1  # shares of the articles
WIDTH: Final = 256  # of the content vectors
EXACT = VectorsConfig(kind="exact")
FEATURES = FeaturesConfig(
    user={"user_id": Id(min_count=1)},
    item={"words": Tags(column="keywords", width=50, min_count=3), "content": Vector(column="vector")},
    history=HistoryConfig(actions=("click",), length=20, fields=("words",)),
)
TOWERS = TwoTowerConfig(
    limit=0,
    vector_size=64,
    embedding_size=64,
    user_layers=(),
    item_layers=(),
    log_q=0.0,
    epochs=6,
    patience=0,
    index=EXACT,
)
FACTORS, RIDGE = IALSConfig(vector_size=128, unseen_weight=0.05, ridge=0.01), 10.0
CONTENT = SimilarContentConfig(limit=0, neighbours=200, index=EXACT)


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only models whose name contains this")
    parser.add_argument("--choose", action="store_true", help="judge on the articles held out for choosing settings")
    arguments = parser.parse_args(words)
    split, part = split_by_item(), "valid" if arguments.choose else "test"
    inputs = inputs_of(split, FEATURES, contents(split), drawn=True)
    asking, articles = len(split.held_out(part).users), len(np.unique(split.data.item[split.rows(part)]))
    print(f"{part}: {asking} users ask for {articles} articles; {len(split.train)} rows to learn from")
    print(f"{'':24}{'among the cold articles':>36}{'among all':>36}")
    print(f"{'':24}" + 2 * f"{'recall@20':>12}{'ndcg@20':>12}{'recall@100':>12}" + f"{'seconds':>10}", flush=True)
    reached = {}
    for name, fit in MODELS.items():
        if arguments.only not in name:
            continue
        began = perf_counter()
        score = fit(split, inputs)
        took = perf_counter() - began
        figures = judged(score, split, part)
        print(f"{name:24}" + "".join(f"{figure:12.4f}" for figure in figures) + f"{took:10.1f}", flush=True)
        reached[name] = figures[2]
    ours = {name: value for name, value in reached.items() if name.startswith("two towers")}
    if ours and "content cosines" in reached:
        best = max(ours, key=lambda name: ours[name])
        result(f"citeulike-t cold recall@100, {best} over content cosines", ours[best], reached["content cosines"])


def split_by_item() -> Split:
    """Rows of the articles that are learnt from, of those to choose settings by, and of the held-out ones."""
    frame = pl.read_parquet(data("citeulike-t") / "interactions.parquet")
    words = pl.read_parquet(data("citeulike-t") / "item_bow.parquet")
    shape = int(frame["user_id"].max()) + 1, words.height
    rows = Interactions.of(frame["user_id"].to_numpy(), frame["item_id"].to_numpy(), shape=shape)
    place = np.random.default_rng(1).permutation(shape[1]) / shape[1]
    part = np.where(place < COLD, 2, np.where(place < COLD + CHOOSING, 1, 0))[rows.item]
    order = np.argsort(rows.user, kind="stable")
    return Split(rows, *(order[part[order] == which] for which in range(3)))


def contents(split: Split) -> pl.DataFrame:
    """What is known of each article, row = its number: keywords, vector."""
    counts = word_counts(pl.read_parquet(data("citeulike-t") / "item_bow.parquet")["word_counts"].to_list())
    learnt = np.unique(split.data.item[split.train])
    documents = np.bincount(counts[learnt].indices, minlength=counts.shape[1])
    weighed = counts.copy()
    weighed.data = (1 + np.log(weighed.data)) * np.log((1 + len(learnt)) / (1 + documents[weighed.indices]))
    lengths = np.sqrt(np.asarray(weighed.power(2).sum(axis=1)).ravel())
    unit = diags_array(1 / np.maximum(lengths, 1e-9)) @ weighed
    _, _, directions = svds(unit[learnt].astype(np.float32), WIDTH, rng=1)
    vectors = (unit @ directions.T).astype(np.float32)
    raw = read_source("citeulike-t", data("citeulike-t")).items
    numbered = raw.with_columns(pl.col("item_id").cast(pl.Int64)).sort("item_id")
    return pl.DataFrame({"keywords": numbered["keywords"], "vector": list(vectors)})


def word_counts(articles: list[str]) -> csr_matrix:
    """[articles, words] from texts "word:count word:count …"."""
    pairs = [[pair.split(":") for pair in text.split()] for text in articles]
    owner = np.repeat(np.arange(len(pairs)), [len(each) for each in pairs])
    flat = np.array([pair for each in pairs for pair in each], np.int64)
    return csr_matrix((flat[:, 1].astype(np.float64), (owner, flat[:, 0])), shape=(len(pairs), flat[:, 0].max() + 1))


def judged(score: Score, split: Split, part: Literal["valid", "test"]) -> list[float]:
    """recall@20, ndcg@20 and recall@100 of the cold articles of a part when they alone compete, then when all do."""
    held_out, figures = split.held_out(part), []
    asked = score(held_out.users)
    cold = np.bincount(split.data.item[split.rows(part)], minlength=split.data.items) > 0
    for compete in (cold, np.ones_like(cold)):
        scores = np.where(compete, asked, -np.inf)
        found = judge(lambda users, of=scores: of[np.searchsorted(held_out.users, users)], held_out, (20, 100))
        figures += [found["recall@20"], found["ndcg@20"], found["recall@100"]]
    return figures


def popular(split: Split, inputs: Inputs) -> Score:
    """What popularity comes to: articles that nobody has met are all alike to it, so their order is drawn."""
    counts = np.bincount(split.data.item[split.train], minlength=split.data.items)
    scores = counts + np.random.default_rng(1).random(len(counts))
    return lambda users: np.broadcast_to(scores, (len(users), len(scores)))


def cosines(split: Split, inputs: Inputs) -> Score:
    """The cosine with the mean of what the user has."""
    items, known = vectors_of(inputs), split.matrix()
    return lambda users: (known[users] @ items) @ items.T


def similar_content(split: Split, inputs: Inputs) -> Score:
    return answers(SimilarContent.fit(CONTENT, inputs, 1), inputs)


def factors_from_content(split: Split, inputs: Inputs) -> Score:
    """iALS, and a linear map (ridge regression) that tells an article's vector from its content."""
    users, items = factorise(split.matrix(), FACTORS, seed=1)
    content, learnt = vectors_of(inputs), np.unique(split.data.item[split.train])
    seen = content[learnt].astype(np.float64)
    told = solve(seen.T @ seen + RIDGE * np.eye(WIDTH), seen.T @ items[learnt], assume_a="pos")
    return by_vectors(users, content @ told)


def two_towers(split: Split, inputs: Inputs) -> Score:
    return answers(TwoTower.fit(TOWERS, inputs, 1), inputs)


def vectors_of(inputs: Inputs) -> NDArray[np.float32]:
    """[items, WIDTH] content vectors at length 1; zeros stay zeros."""
    vectors = inputs.catalog.column("vector", np.arange(len(inputs.catalog)))
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)


MODELS: Mapping[str, Callable[[Split, Inputs], Score]] = {
    "popular": popular,
    "content cosines": cosines,
    "similar_content": similar_content,
    "iALS told from content": factors_from_content,
    "two towers": two_towers,
}


if __name__ == "__main__":
    main(sys.argv[1:])
