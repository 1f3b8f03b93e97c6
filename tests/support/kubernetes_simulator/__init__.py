"""A Kubernetes cluster as far as a backend meets it: an API server over TLS, a scheduler, nodes with real processes.

What is known from the documentation and the source of Kubernetes 1.37 is imitated: resource versions, lists and
watches, strict decoding, rights, quotas, deletion with a grace period, owners, evictions. Every request and every
answer is held to the published strict schemas. `deviations.py` lists what is known to differ.
"""
