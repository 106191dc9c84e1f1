"""From a plan to what is launched: engine instances, where they sit, and their command lines."""
