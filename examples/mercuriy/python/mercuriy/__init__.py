"""mercuriy: a messenger between an async front and systems that only know how to block.

Read it in this order:

    places/      where blocking work runs: on the loop, in threads, in processes, in offloop's pools,
                 on a cluster
    walk         the walk of a JSON document, and `body`: how the document gets to another process without a copy
    elsewhere    the walk as a task of workers on other machines
    systems/     the connectors: each blocks, one call at a time
    documents, functions, files, messages, service    the routes
    delivery, store    messages: delivered at least once
    front        what happens around each request: its id, the audit log, metrics, errors
    app          puts it together
"""

__version__ = "1.0.0"
