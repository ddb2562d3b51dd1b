"""What `recipes/benchmark.py` measures, a subject in each file."""
