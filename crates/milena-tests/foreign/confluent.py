"""confluent-kafka (librdkafka), for run.py.

BOOTSTRAP create TOPIC N_PARTITIONS | produce TOPIC CODEC (stdin: [[key, value], ...]) | consume TOPIC GROUP, until
SIGTERM. Consuming prints {"assigned": N} and {"partition", "offset", "key", "value", "codec"}, one object a line.
"""

import json
import signal
import sys

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic


def create(bootstrap, topic, n_partitions):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(topic, num_partitions=int(n_partitions))]).values():
        future.result(30)


def produce(bootstrap, topic, codec):
    producer = Producer({
        "bootstrap.servers": bootstrap,
        "compression.type": codec,
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
    })
    errors = []
    for key, value in json.load(sys.stdin):
        producer.produce(topic, value, key, headers={"codec": codec}, on_delivery=lambda e, _: e and errors.append(e))
    if producer.flush(30) or errors:
        sys.exit(f"not delivered: {errors[:3]}")


def consume(bootstrap, topic, group):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest"})
    running = True

    def stop(*_):
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    assigned = {}

    def show(change):
        def callback(_, partitions):
            for partition in partitions:
                change(partition.partition)
            print(json.dumps({"assigned": len(assigned)}), flush=True)
        return callback

    consumer.subscribe([topic], on_assign=show(lambda p: assigned.update({p: True})),
                       on_revoke=show(lambda p: assigned.pop(p, None)))
    while running:
        record = consumer.poll(0.2)
        if record is None:
            continue
        if record.error():
            print(record.error(), file=sys.stderr)
            continue
        print(json.dumps({
            "partition": record.partition(),
            "offset": record.offset(),
            "key": record.key().decode(),
            "value": record.value().decode(),
            "codec": dict(record.headers())["codec"].decode(),
        }), flush=True)
    consumer.close()


bootstrap_servers, action, *rest = sys.argv[1:]
{"create": create, "produce": produce, "consume": consume}[action](bootstrap_servers, *rest)
