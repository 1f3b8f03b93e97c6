"""Fly's Machines API on this machine: a real HTTP server, whose machines are real processes.

"The reference" in this package is the project's collection of facts about that API; what is named after it is a section
of it, and a letter says how far it can be trusted: (D) Fly's documentation, (S) Fly's source, (L) measured against the
live API by others, (P) from others' production logs, (I) inferred, (?) not found. Behaviour that is (I) or (?) is a
switch (`uncertain`), and a pool is tried in every position of every switch; on a text that is (I) nothing may depend.
Nothing here was compared with the live API by this project.

It leaves out what a backend for runners has no use for: volumes, services and the proxy, several containers in one
machine, `config.files`, exec, suspending, cordons, versions, updates.
"""
