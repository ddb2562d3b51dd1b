"""What `msl-hf benchmark` measures, a subject in each file."""
