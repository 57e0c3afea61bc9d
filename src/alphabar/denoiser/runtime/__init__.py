"""Ways to execute a network: eager, compiled, and through other runtimes."""
