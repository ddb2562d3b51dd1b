"""What measures the package itself: ablations, and what training and inference cost."""
