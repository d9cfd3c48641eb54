"""Training without Ray or MLflow: `flowse.training.run.train` in one process, or a `Rank` in each process of a group.

    from flowse.training.config import TrainConfig
    from flowse.training.run import train

    trained = train(TrainConfig(max_steps=500), "runs/demo/simulate/…", "my-training", report=print)

`config` and `mixtures` are what comes in, `job` what is to be trained (from a `start`), `rank` trains it in the `loop`
with `optim`, `checkpoint` and `history` are what it leaves on disk, and `trained` is the result.
"""
