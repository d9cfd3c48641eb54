"""The stages: everything that knows Ray or MLflow; `python -m pipelines --help` is the way in."""
