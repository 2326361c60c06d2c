"""dockchat: a guest book on MongoDB, small enough to read while its image is built.

Two things make it a good citizen of an orchestrator. It starts without its database and finds it whenever it comes
(`connect=False`), so nobody has to start things in an order for ever. And it says honestly how it is: `/healthz` asks
the database, and a page without messages is a 503 that a person can read.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, jsonify, redirect, render_template, request
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from waitress import serve

MONGO_HOST = os.environ.get("MONGO_HOST", "db")
MONGO_PORT = int(os.environ.get("MONGO_PORT", "27017"))
PORT = int(os.environ.get("PORT", "5000"))
DB_SECONDS = 3  # a probe of /healthz must wait longer than this, or it sees a time-out and not the 500
NAME_LENGTH, TEXT_LENGTH = 40, 500
SHOWN = 50
AWAY = "The database does not answer at this moment. Nothing that was saved is lost; try again in a few seconds."

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 16 * 1024
limit = DB_SECONDS * 1000
client: MongoClient[dict[str, Any]] = MongoClient(
    MONGO_HOST,
    MONGO_PORT,
    connect=False,
    serverSelectionTimeoutMS=limit,
    connectTimeoutMS=limit,
    socketTimeoutMS=limit,
)
book = client["dockchat"]["messages"]


def latest() -> list[dict[str, str]]:
    """The newest messages first. `PyMongoError` when the database is away."""
    return list(book.find({}, {"_id": False}).sort("at", -1).limit(SHOWN))


def refusal(name: str, text: str) -> str:
    """Why this message cannot be taken; "" if it can."""
    if not name or not text:
        return "A message needs a name and a text."
    if len(name) > NAME_LENGTH:
        return f"The name is too long: {len(name)} characters, at most {NAME_LENGTH}."
    if len(text) > TEXT_LENGTH:
        return f"The text is too long: {len(text)} characters, at most {TEXT_LENGTH}."
    return ""


def page(status: int = 200, notice: str = "", name: str = "", text: str = "") -> tuple[str, int]:
    """The page, whatever happens: without the database it says so and keeps what was typed."""
    try:
        messages, away = latest(), ""
    except PyMongoError:
        messages, away, status = [], AWAY, max(status, 503)
    limits = {"name_length": NAME_LENGTH, "text_length": TEXT_LENGTH}
    host = socket.gethostname()
    notice = notice or away
    return render_template(
        "index.html", messages=messages, away=away, notice=notice, name=name, text=text, host=host, **limits
    ), status


@app.get("/")
def index() -> tuple[str, int]:
    return page()


@app.get("/messages")
def messages() -> tuple[Response, int]:
    try:
        return jsonify(latest()), 200
    except PyMongoError:
        return jsonify(error=AWAY), 503


@app.post("/messages")
def post() -> Any:
    """A form is answered with 303 back to the page, so that a reload does not post twice; JSON with JSON."""
    given = request.get_json(silent=True) if request.is_json else request.form
    fields = given if hasattr(given, "get") else {}
    name, text = (str(fields.get(key) or "").strip() for key in ("name", "text"))
    status, problem = 400, refusal(name, text)
    if not problem:
        message = {"name": name, "text": text, "at": datetime.now(UTC).isoformat(timespec="milliseconds")}
        try:
            book.insert_one(dict(message))
            return (jsonify(message), 201) if request.is_json else redirect("/", 303)
        except PyMongoError:
            status, problem = 503, AWAY + " Your message was not saved."
    return (jsonify(error=problem), status) if request.is_json else page(status, problem, name, text)


@app.get("/healthz")
def healthz() -> tuple[Response, int]:
    try:
        client.admin.command("ping")
        return jsonify(ok=True, host=socket.gethostname()), 200
    except PyMongoError as error:
        return jsonify(ok=False, error=f"{MONGO_HOST}:{MONGO_PORT}: {type(error).__name__}"), 500


if __name__ == "__main__":
    # The first process of a container has no default for SIGTERM: without this line a stop waits, then kills.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"dockchat on port {PORT}, database {MONGO_HOST}:{MONGO_PORT}", flush=True)
    serve(app, host="0.0.0.0", port=PORT, threads=8)
