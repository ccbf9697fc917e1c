"""Clients of every kind of model server, and the limits that keep it busy without overload."""
