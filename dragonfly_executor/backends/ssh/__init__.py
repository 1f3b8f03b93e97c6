"""The backend for hosts that are reached by SSH. They need sshd and Python, and no other installation."""
