"""Rules over what the readers found, each in a file of its own."""
