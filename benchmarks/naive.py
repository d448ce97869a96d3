"""The loop that one writes first: BROKER PREFIX MESSAGES. `json.loads` each, INSERT each, join once."""

import json
import sys

import duckdb
from confluent_kafka import Consumer

SILENCE_SECONDS = 30


def main() -> None:
    """Take so many messages, print what the orders come to by discount."""
    broker, prefix, messages = sys.argv[1:]
    consumer = Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": "naive",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,  # the next repetition begins anew
        },
    )
    consumer.subscribe([f"{prefix}.users", f"{prefix}.orders"])
    con = duckdb.connect()
    con.execute("CREATE TABLE users (id BIGINT, discount DOUBLE, valid_from BIGINT)")
    con.execute("CREATE TABLE orders (user_id BIGINT, ordered_at BIGINT, amount DECIMAL(12, 2))")
    for _ in range(int(messages)):
        if (message := consumer.poll(SILENCE_SECONDS)) is None:
            raise SystemExit("messages are missing")
        change = json.loads(message.value() or b"")
        row = change["after"]
        if (message.topic() or "").endswith(".users"):
            values = [row["id"], row["practitioner_discount"], change["source"]["ts_ms"]]
            con.execute("INSERT INTO users VALUES (?, ?, ?)", values)
        else:
            values = [row["user_id"], row["date"], row["amount_total"]]
            con.execute("INSERT INTO orders VALUES (?, ?, ?)", values)
    consumer.close()
    for discount, orders, cents in con.execute(
        "SELECT discount, count(*), CAST(sum(amount) * 100 AS BIGINT) FROM orders o "
        "ASOF JOIN users u ON o.user_id = u.id AND o.ordered_at >= u.valid_from GROUP BY discount"
    ).fetchall():
        print(json.dumps({"discount": discount, "orders": orders, "cents": cents}))


if __name__ == "__main__":
    main()
