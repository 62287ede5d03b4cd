"""tamis: the whole industrial recommender funnel, from interaction logs to a served, explained feed."""

__version__ = "0.1.0"
