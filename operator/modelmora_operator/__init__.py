"""Decides which workers should exist, and makes it so: pods in a cluster, processes on one machine.

Decisions are plain functions over values (plan, rollout, replicas, conditions); everything that touches the world is
behind the `Cluster` seam.
"""
