"""What the recipes share: arguments, the output folder, and load -> train -> evaluate -> card."""
