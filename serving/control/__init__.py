"""The controller: keeps what runs as it should be. Knows plans and ports; knows no Ray.

ports.py       what it needs from outside: Cluster, Store, Clock
controller.py  observe, decide, act; one idempotent tick
status.py      what people and programs are told about it
store.py       revisions of the Target in SQLite
api.py         the control API over HTTP
"""
