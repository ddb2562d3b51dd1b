"""What every command stands on: flags and configurations, errors, files, and the machine."""
