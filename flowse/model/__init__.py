"""The networks: a DiT for the flow, a dual-path mask as predictor, and the system that combines both."""
