"""The samplers, one file a method, with what several of them share."""
