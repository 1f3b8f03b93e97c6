"""Runners as Pods of a Kubernetes cluster."""
