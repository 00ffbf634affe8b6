"""``sensorium serve``: its flags, where their values come from, and the server's life.

``sensorium chat`` lies beside it.
"""
