"""From media as a caller gave them to features that an engine takes.

    fetch → digest → key → cache → probe → load → plan → process

Whatever is particular to one kind or one model is asked of a ``MediaKind`` and a
``MediaAdapter``; nothing here knows either.
"""
