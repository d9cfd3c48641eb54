"""Conditional flow matching: path, loss and solver, for any velocity callable.

"The paper" is FlowSE (arXiv:2505.19476), whose symbols are the identifiers: ``x_0`` (source), ``x_1`` (clean log-mel),
``x_t`` (point of the path at time ``t``), ``u_t`` (true velocity), ``v`` (estimated velocity).
"""
