"""Samplers, one file a method; the catalogue of them; and `sample`, which draws images with any of them."""
