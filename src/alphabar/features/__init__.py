"""Feature extractors, and the store of the features that they compute."""
