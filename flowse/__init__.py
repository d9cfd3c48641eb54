"""FlowSE speech enhancement: the library that runs on one machine and knows no Ray, no MLflow and no YAML."""

__version__ = "0.1.0"
