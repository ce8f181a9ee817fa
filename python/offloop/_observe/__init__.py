"""The live view: the state of this process as one document, and the servers that show it.

- `document.py`: the document as types.
- `server.py`: one snapshot; the servers of this process.
- `start.py`: the environment variable.
- `program.py`: the name of the service that this process belongs to.
- `mounted.py`: the view within a web service.

The engine makes the document and serves it, on threads that never need the interpreter.
"""
