"""What the papers do with a trained model, or with several.

- `study`: variants, seeds and claims; `running` trains them, `measuring` and
  `collecting` make tables of them, `verdicts` judges the claims
- `claims`: what the papers say, as data
- `transfer`: what frozen features tell of another dataset
- `corruptions`: error, NLL and ECE on corrupted test sets
- `gradcam`: where a network sees the evidence for a class
- `unconstrained`: neural collapse without a network
"""
