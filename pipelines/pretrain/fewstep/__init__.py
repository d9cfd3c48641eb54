"""Recipe: a mel flow for one to four evaluations, trained on mixtures made while it trains, on one GPU.

`python -m pipelines.pretrain.fewstep` trains one of three models from a pack that `pipelines.pretrain.mask pack` wrote:
``flow``, a plain flow from noise, conditioned on the noisy mel; ``distil``, its average velocity, with the flow as
teacher; and ``data``, which refines what an embedded mask predicts. All randomness follows from one seed.
"""
