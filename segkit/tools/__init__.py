"""Commands around the data: ``python -m segkit.tools.<name> [key=value ...]``; docs/data.md.

``convert`` and ``download`` make a folder in VOC layout, ``split`` divides it, ``stats`` and
``browse`` show what is in it. They stand above all other rooms: none of those imports them.
"""
