"""Grafana dashboards made from kit models; talks to the hub only from outside and imports nothing of it."""
