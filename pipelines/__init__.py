"""The pipeline: commands, stages, engine and corpora, all that knows Ray or MLflow; `__main__.py` is the way in."""
