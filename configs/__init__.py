"""Run cards: one file per experiment, and what they share."""
