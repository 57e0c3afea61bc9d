"""The samplers, one file per method; `ddim` documents the arguments that all of them take."""
