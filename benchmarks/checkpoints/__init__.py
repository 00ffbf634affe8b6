"""Real weights for benchmarks, made once and kept in ``benchmarks/results``."""
