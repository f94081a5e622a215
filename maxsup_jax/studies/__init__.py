"""What the papers do with a trained model, or with several.

corruptions   error, NLL and ECE on corrupted test sets
gradcam       where a network sees the evidence for a class
unconstrained neural collapse without a network
"""
