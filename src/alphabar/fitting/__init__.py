"""Fitting the levels and coefficients of a sampler to a model."""
