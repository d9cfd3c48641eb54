"""The engine under the stages: what is fresh, where units run, how files come to be; it knows no stage."""
