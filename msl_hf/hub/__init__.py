"""For the Hub: plain dictionaries in, files out."""
