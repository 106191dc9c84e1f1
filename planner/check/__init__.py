"""Reads launch files alone and counts again what they ask for: GPUs, shards, memory, ports, flags."""
