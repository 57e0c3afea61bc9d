"""The functions of the Python interface, one module each."""
