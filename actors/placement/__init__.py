"""Placement: what the cluster has, what the processes need, and where each process runs."""
