"""What shows a pool: its socket, status and top, metrics, spans, logged events."""
