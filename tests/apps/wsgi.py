"""A Flask application that holds memory of its own in each worker, and tells which worker answered.

GET /hold/MIB holds so much more in the worker that answers; GET / says its pid and what its collector has counted.
"""

import gc
import os

from flask import Flask

app = Flask(__name__)
held = [bytes([1]) * (20 << 20)]


@app.get("/")
def who():
    """This worker: pid, and (collections, collected, uncollectable) of each generation."""
    return {"pid": os.getpid(), "gc": [[each["collections"], each["collected"], each["uncollectable"]]
                                       for each in gc.get_stats()]}


@app.get("/hold/<int:mib>")
def hold(mib: int):
    """More memory, and garbage for the collector."""
    held.append(bytes([1]) * (mib << 20))
    for _ in range(20_000):
        loop = []
        loop.append(loop)
    return {"pid": os.getpid()}
