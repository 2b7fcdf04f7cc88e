"""Throughput, FLOPs and peaks."""
