"""The engine under the stages: what is fresh, where units run, how outputs are recorded; it imports no stage."""
