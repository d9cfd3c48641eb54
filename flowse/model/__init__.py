"""The networks: a DiT for the flow, a mask U-Net as predictor, and the system that combines both."""
