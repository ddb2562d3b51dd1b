"""What users do: a module for each command, and what these share."""
