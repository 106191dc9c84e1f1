"""Readers of the kinds of launch files: each gives engine instances, routers and node pools."""
