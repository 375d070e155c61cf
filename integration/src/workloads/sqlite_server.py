# A server on SQLite in WAL mode, for a checkpoint under load: each line of a client is a committed
# row, answered with "N TEXT", N being the number of rows. "check" is answered with what SQLite
# finds when it checks the database.
import socketserver
import sqlite3
import threading

database = sqlite3.connect("/rows.db", check_same_thread=False, isolation_level=None)
assert database.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
database.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, text TEXT)")
lock = threading.Lock()


def answer(text):
    with lock:
        if text == "check":
            return "0 " + database.execute("PRAGMA integrity_check").fetchone()[0]
        database.execute("INSERT INTO rows (text) VALUES (?)", (text,))
        (rows,) = database.execute("SELECT count(*) FROM rows").fetchone()
        (largest,) = database.execute("SELECT max(number) FROM rows").fetchone()
        assert rows == largest, f"{rows} rows, the last is {largest}"
        return f"{rows} {text}"


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write((answer(line.decode().rstrip("\n")) + "\n").encode())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


print("serving", flush=True)
Server(("", 7100), Handler).serve_forever()
