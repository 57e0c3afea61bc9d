"""Posterior sampling: images from incomplete, blurred or noisy measurements of them, by any model, without training."""
